"""LSQ+ quantisers and the convolution and linear layers that carry them."""
