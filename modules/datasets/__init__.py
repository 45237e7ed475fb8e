"""Images in, batches out: sources of labelled images, their splits, the two transforms and the loaders.

`build.load_data` gives a `Data`; `transforms` turns an image into a tensor; `loading` makes batches.
"""
