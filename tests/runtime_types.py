"""The type checker that jaxtyping's import hook applies to the package: beartype, an int counting as a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
