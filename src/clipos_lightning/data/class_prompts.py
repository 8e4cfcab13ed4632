"""Class names and prompt templates from a YAML file: ``--data.class_names FILE``."""

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..options.yaml_files import read_yaml

TEMPLATES = "_templates"  # key of the templates that apply to all classes
Wording = dict[str, list[str]]  # "names": the first one is displayed; optionally "templates"


def read_wordings(file: str, keys: Sequence[str], defaults: Sequence[str]) -> list[Wording]:
    """Read the names and prompt templates of the classes from a YAML file.

    The file maps the key or the default name of a class to a name, a list of names, or a mapping
    ``{names: [...], templates: [...]}``. The entry ``_templates`` holds the templates of all classes that have none of
    their own. A class without an entry keeps its default name. Keys and names are text exactly as written: ``010`` and
    ``yes`` need no quotes.

    Args:
        file: path of the YAML file.
        keys: key of each of the C classes: its folder name, or its index as text.
        defaults: default name of each class (C).

    Returns:
        One wording per class (C): ``names``, and ``templates`` where the file gives some.

    Raises:
        InputError: the file cannot be read, has another structure or a key twice, or names a class that the ID set does
            not have.

    >>> import tempfile
    >>> from pathlib import Path
    >>> file = Path(tempfile.mkdtemp()) / "names.yaml"
    >>> _ = file.write_text("red_fox: [red fox, fox in the snow]")
    >>> read_wordings(str(file), ["red_fox", "wolf"], ["red fox", "wolf"])
    [{'names': ['red fox', 'fox in the snow']}, {'names': ['wolf']}]
    """
    given = read_yaml(file, "--data.class_names: cannot read", as_text=True)
    if not isinstance(given, dict):
        raise InputError(f"--data.class_names: {file} must map each class folder to its wording, like `cat: tabby cat`")
    if TEMPLATES in keys:
        raise InputError(f"--data.class_names: {TEMPLATES} is reserved for templates: rename the class folder")
    common = {"templates": given.pop(TEMPLATES)} if TEMPLATES in given else {}
    if common:
        check_texts(common["templates"], f"{file}: {TEMPLATES}", template=True)
    wordings = {key: as_wording(value, f"{file}: {key}") for key, value in given.items()}
    unknown = sorted(set(wordings) - set(keys) - set(defaults))
    if unknown:
        raise InputError(f"--data.class_names: {file} names {unknown[0]!r}, which is not a class of the ID set")
    pairs = zip(keys, defaults, strict=True)
    return [{**common, **wordings.get(key, wordings.get(name, {"names": [name]}))} for key, name in pairs]


def as_wording(value: Any, where: str) -> Wording:
    """Normalise the entry of a class to its full form; repeated names are dropped.

    Args:
        value: a name, a list of names, or a mapping with ``names`` and optionally ``templates``.
        where: file and entry, for error messages.

    Raises:
        InputError: the entry has none of these forms.

    >>> as_wording("tabby cat", "names.yaml: cat")
    {'names': ['tabby cat']}
    """
    full = value if isinstance(value, dict) else {"names": value}
    if "names" not in full or not full.keys() <= {"names", "templates"}:
        raise InputError(f"--data.class_names: {where} takes names and templates, like {{names: [cat], templates: …}}")
    names = [full["names"]] if isinstance(full["names"], str) else full["names"]
    check_texts(names, where, template=False)
    wording = {"names": list(dict.fromkeys(name.strip() for name in names))}
    if "templates" in full:
        check_texts(full["templates"], where, template=True)
        wording["templates"] = list(full["templates"])
    return wording


def check_texts(texts: Any, where: str, template: bool) -> None:
    """Check that ``texts`` is a non-empty list of strings, each with ``{}`` exactly once if they are templates.

    Raises:
        InputError: it is not.
    """
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        what = "a list of templates" if template else "a name, or a list of names"
        raise InputError(f"--data.class_names: {where} must be {what}")
    if template and any(text.count("{}") != 1 for text in texts):
        raise InputError(
            f"--data.class_names: {where}: each template must contain {{}} exactly once, for the class name"
        )


def one_name_each(wordings: Sequence[Wording]) -> bool:
    """Whether every class has a single name and no template, so that its name alone describes it."""
    return all(len(wording["names"]) == 1 and "templates" not in wording for wording in wordings)
