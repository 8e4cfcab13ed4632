"""Strategies of Hypothesis that change valid files: parts of plain data, tensors, bytes.

The default profile tries a few examples, always the same; ``--hypothesis-profile thorough`` tries thousands, others in
each run.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from clipos_lightning.errors import InputError

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
QUICK = settings(max_examples=24, derandomize=True, database=None, suppress_health_check=QUIET)
settings.register_profile("quick", QUICK, deadline=timedelta(seconds=20))
settings.register_profile(
    "thorough", QUICK, max_examples=3000, derandomize=False, print_blob=True, deadline=timedelta(seconds=20)
)

TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "null", "NaN", "1e999", "../..", "/", "os.system", "a.b", "{}", "\0", "\ud800", "ﬁ\u200b"]
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan]),
    st.floats(),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
PLAIN = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def fewer(divisor: int) -> settings:
    """The settings of a test whose examples are slow: a part of the profile's examples."""
    return settings(max_examples=max(2, settings.default.max_examples // divisor))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every part of plain data, outermost first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def nested(levels: int) -> Any:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def retyped(value: Any) -> st.SearchStrategy[Any]:
    """The same value in another type or container."""
    kinds: list[Any] = [str(value), [value], {"a": value}, nested(60)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        kinds += [-value, value + 1, value * 1000, bool(value)]
    if isinstance(value, list):
        kinds += [value * 2, value[1:], dict(enumerate(value)), value[::-1]]
    if isinstance(value, dict):
        kinds += [list(value), {str(key).upper(): item for key, item in value.items()}]
    return st.sampled_from(kinds)


@st.composite
def changed(draw: st.DrawFn, valid: Any, tensors: bool = False, below: tuple[Any, ...] = (), junk: Any = PLAIN) -> Any:
    """Plain data in which one to three parts, at any depth, are dropped, replaced, of another type, or new.

    Args:
        draw: of Hypothesis.
        valid: the data.
        tensors: whether parts may become tensors, too; tensors are changed to tensors that do not fit.
        below: the path to the part that is changed; () is all.
        junk: what replaces a part.
    """
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        found = [path for path in places(value) if path[: len(below)] == below]
        deepest = draw(st.integers(0, max(map(len, found), default=0)))
        paths = [path for path in found if len(path) >= min(deepest, len(found[-1]))] or found
        if not paths:
            return value
        path = draw(st.sampled_from(paths))
        if not path:
            value = draw(st.one_of(st.just(value), junk))
            continue
        value = replace_part(draw, value, path, tensors, junk)
    return value


def replace_part(draw: st.DrawFn, value: Any, path: tuple[Any, ...], tensors: bool, junk: Any) -> Any:
    """The data with another part at a path."""
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    old, key = inner[path[-1]], path[-1]
    if isinstance(old, torch.Tensor):
        inner[key] = draw(other_tensors(old))
        return value
    action = draw(st.sampled_from(["drop", "replace", "replace", "retype", "add", "twin"] + ["tensor"] * tensors))
    if action == "drop":
        del inner[key]
    elif action == "replace":
        inner[key] = draw(junk)
    elif action == "retype":
        inner[key] = draw(retyped(old))
    elif action == "tensor":
        inner[key] = torch.ones(2)
    elif isinstance(inner, dict):  # one more key, or a key under another name
        inner[draw(TEXTS)] = draw(junk) if action == "add" else inner.pop(key)
    else:
        inner.append(copy.deepcopy(old))
    return value


def other_tensors(tensor: torch.Tensor) -> st.SearchStrategy[Any]:
    """Tensors of another shape, type or content."""
    if tensor.is_complex() or tensor.is_sparse:
        return st.just(tensor)
    other = tensor.detach().clone().float()
    spoiled = [other.clone() for _ in range(4)]
    for one, number in zip(spoiled, (math.nan, math.inf, -1e38, 0.0), strict=True):
        one.view(-1)[:1] = number
    kinds = [tensor.double(), tensor.half(), tensor.long(), tensor.bool(), tensor.to(torch.complex64), *spoiled]
    kinds += [tensor[None], tensor.flatten(), torch.tensor(1.0), torch.empty(0), tensor * 0, tensor * 1e20]
    kinds += [-tensor.float(), tensor.to_sparse(), tensor.clone().float().requires_grad_(), None, 1.0, [1.0]]
    kinds += (
        []
        if tensor.ndim == 0
        else [tensor[:0], tensor[:1], torch.cat([tensor, tensor]), tensor.expand(2, *tensor.shape)]
    )
    return st.sampled_from(kinds)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that are cut off, changed, repeated, or in another order; often near the start."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        end = draw(st.sampled_from([min(len(data), 64), min(len(data), 1024), len(data)]))
        place = draw(st.integers(0, max(0, end - 1)))
        size = draw(st.sampled_from([1, 2, 4, 100]))
        action = draw(st.sampled_from(["set", "set", "flip", "cut", "insert", "remove", "repeat"]))
        if action == "set":
            data[place : place + 1] = bytes([draw(st.sampled_from([0, 1, 127, 128, 255, 10, 34, 44]))])
        elif action == "flip":
            data[place : place + 1] = bytes([b ^ (1 << draw(st.integers(0, 7))) for b in data[place : place + 1]])
        elif action == "cut":
            del data[place:]
        elif action == "insert":
            data[place:place] = draw(st.binary(max_size=size))
        elif action == "remove":
            del data[place : place + size]
        else:
            data[place:place] = data[place : place + size] * 3
    return bytes(data)


def damaged_text(text: str) -> st.SearchStrategy[bytes]:
    """A text file that is changed in any place, or another text."""
    return st.one_of(damaged(text.encode()), st.binary(max_size=60), st.text(max_size=60).map(encode))


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def mostly(first: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One strategy in three of four examples, the others in the rest."""
    return st.sampled_from([first, first, first, st.one_of(*others)]).flatmap(lambda one: one)


def json_files(valid: Any) -> st.SearchStrategy[bytes]:
    """JSON of changed data, or JSON that is damaged as text."""
    return mostly(changed(valid).map(as_json), damaged_text(json.dumps(valid)), DEEP)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


DEEP: st.SearchStrategy[bytes] = st.sampled_from([100, 100_000]).flatmap(
    lambda n: st.sampled_from([b"[" * n, b"[" * n + b"]" * n, b'{"a":' * n + b"1" + b"}" * n, b"{" * n, b"- " * n])
)
REFUSED = object()


def outcome(read: Callable[[], Any]) -> Any:
    """What a reader returns; REFUSED if it raises an InputError of one line."""
    try:
        return read()
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) > 10
        return REFUSED


YAML_TEXTS = st.sampled_from(
    ["~", "1_000", "0x10", "12:30", "2024-01-01", "!!python/name:os.system", "&a [*a]", "<<", "? x"]
)


def yaml_files(valid: Any) -> st.SearchStrategy[bytes]:
    """YAML of changed data, or YAML that is damaged as text."""
    plain = changed(valid, junk=st.one_of(PLAIN, YAML_TEXTS)).map(as_yaml)
    raw = st.tuples(TEXTS, YAML_TEXTS).map(lambda pair: encode(f"{pair[0]}: {pair[1]}\n"))
    return mostly(plain, damaged_text(as_yaml(valid).decode()), raw, DEEP)


def as_yaml(value: Any) -> bytes:
    return encode(yaml.safe_dump(value, allow_unicode=True, sort_keys=False))
