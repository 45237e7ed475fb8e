"""Images that are single files on disk."""

import os

from modules.datasets.sources import EncodedSource, arrange, is_image_name
from modules.utils.errors import UserError

LAYOUT = "<path>/train/<class>/<image files> and <path>/val/<class>/<image files>"


class FileSource(EncodedSource):
    """One image file per entry of `paths`."""

    def __init__(self, paths, classes, labels):
        super().__init__(classes, labels)
        self.paths = list(map(str, paths))

    def where(self, index):
        return self.paths[index]

    def read(self, index):
        try:
            with open(self.paths[index], "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"cannot read the image {self.where(index)} ({error.strerror}); "
                            "allowed: image files that stay where they were listed") from error


def open_class_folders(folder, classes=None):
    """Return the source of `<folder>/<class>/<image files>`. `classes`: the training part's, for the other part.

    A class folder without any image is refused in the training part, where it would shift the labels unnoticed.
    """
    found = []
    with os.scandir(folder) as entries:
        class_folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    for entry in class_folders:
        images = [name for name in os.listdir(entry.path) if is_image_name(name)]
        if not images and classes is None:
            raise UserError(f"no images in the class folder {entry.path}; allowed: {LAYOUT}")
        found.extend((entry.name, name, os.path.join(entry.path, name)) for name in images)
    classes, labels, paths = arrange(found, folder, LAYOUT, classes)
    return FileSource(paths, classes, labels)
