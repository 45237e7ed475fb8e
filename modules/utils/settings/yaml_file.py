"""The one reader of yaml files: text that is damaged or hostile is refused in one line."""
from __future__ import annotations

from pathlib import Path

from modules.utils.errors import UserError, shorten
from modules.utils.files import fault_of_file
from modules.utils.text import read_text

MAX_BYTES = 1_000_000
MAX_DEPTH = 20


def read_yaml(path: str | Path, what: str = "yaml file", hint: str = "") -> dict:
    """The mapping in a yaml file; {} of an empty one.

    Args:
        what: names the file in errors, such as "config file".
        hint: the allowed files, such as "a yaml file such as supernet_training_configs/train.yaml".

    Raises:
        UserError: a file that cannot be read (`read_text`), is not yaml, is nested too deeply or not a mapping; one
            with a key given twice, an alias, or a whole number of more than 63 bits.
    """
    import yaml

    if hint and (fault := fault_of_file(path)):
        raise UserError(f"{what} {str(path)!r} {fault}; allowed: {hint}")
    text, name = read_text(path, what, MAX_BYTES), f"{what} {str(path)!r}"
    try:
        found = yaml.load(text, _loader())
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not yaml: {' '.join(str(error).split())[:300]}") from None
    except (ValueError, OverflowError) as error:  # a date or number that Python cannot hold
        raise UserError(f"{name} is not yaml: {shorten(str(error))}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{name} holds {type(found).__name__}; expected 'name: value' lines")
    return found


def _loader():
    """A safe loader without aliases: a few of them can stand for more text than memory holds."""
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent, index):
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor}; aliases are not allowed",
                                                  event.start_mark)
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", event.start_mark)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_yaml_int(self, node):
            value = super().construct_yaml_int(node)
            if value.bit_length() > 63:
                raise yaml.constructor.ConstructorError(None, None, f"number {shorten(node.value)} is too large",
                                                        node.start_mark)
            return value

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise yaml.constructor.ConstructorError(None, None, f"{shorten(key.value)} is given twice",
                                                                key.start_mark)
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    return Loader
