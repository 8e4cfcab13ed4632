"""How classes are worded to CLIP: ``--data.class_names FILE``, one or several names a class, and templates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError

TEMPLATES = "_templates"  # the key for the templates of all classes
Wording = dict[str, list[str]]  # "names", the first of which is shown; "templates" where they are given


def read_wordings(file: str, keys: Sequence[str], defaults: Sequence[str]) -> list[Wording]:
    """Each class's wording from a YAML file that maps its folder (or its default name) to it.

    A wording is a name, a list of names, or ``{names: [...], templates: [...]}``; ``_templates`` holds the templates of
    all classes that have none of their own. A class that the file leaves out keeps its default name.

    Raises:
        InputError: no such file, not such a mapping, a class that the set has not.
    """
    try:
        given = yaml.safe_load(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--data.class_names: cannot read {file}: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise InputError(f"--data.class_names: {file} must map each class folder to its wording, like `cat: tabby cat`")
    if TEMPLATES in keys:
        raise InputError(f"--data.class_names: {TEMPLATES} is the key for templates: call the class folder otherwise")
    common = {"templates": given.pop(TEMPLATES)} if TEMPLATES in given else {}
    if common:
        check_texts(common["templates"], f"{file}: {TEMPLATES}", template=True)
    wordings = {str(key): as_wording(value, f"{file}: {key}") for key, value in given.items()}
    strange = sorted(set(wordings) - set(keys) - set(defaults))
    if strange:
        raise InputError(f"--data.class_names: {file} names {strange[0]!r}, which is not a class of the ID set")
    pairs = zip(keys, defaults, strict=True)
    return [{**common, **wordings.get(key, wordings.get(name, {"names": [name]}))} for key, name in pairs]


def as_wording(value: Any, where: str) -> Wording:
    """A wording in its full form.

    Raises:
        InputError: it has none of the forms.
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
    """A list of texts that is not empty; in each template ``{}`` once.

    Raises:
        InputError: something else.
    """
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        what = "a list of templates" if template else "a name, or a list of names"
        raise InputError(f"--data.class_names: {where} must be {what}: quote what YAML reads as a number, yes or no")
    if template and any(text.count("{}") != 1 for text in texts):
        raise InputError(f"--data.class_names: {where}: each template holds {{}} once, where the class name stands")


def one_name_each(wordings: Sequence[Wording]) -> bool:
    """Whether one name a class says it all."""
    return all(len(wording["names"]) == 1 and "templates" not in wording for wording in wordings)
