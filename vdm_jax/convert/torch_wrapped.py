"""Remove prefixes of wrapper modules, and the other parts of a checkpoint, from a state_dict.

    unwrapped({"model.module.conv.weight": w, "optimizer.state.0.exp_avg": m, "step": n}, "raw") → {"conv.weight": w}

DataParallel adds the prefix 'module.' to every name, torch.compile '_orig_mod.', Lightning usually 'model.', and
AveragedModel 'module.' and a count. None of the originals has a module with such a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vdm_jax.convert import state_dict
from vdm_jax.convert.vdm_layout import Flat
from vdm_jax.errors import UserError

_PREFIXES = ("module.", "_orig_mod.", "model.", "shadow.")
# Keys of the model and its EMA in checkpoints that also contain an optimizer, a step and so on.
_RAW = ("model", "model_state_dict", "state_dict", "online_model", "net")
_AVERAGE = ("ema", "ema_model", "model_ema", "ema_state_dict", "model_ema_state_dict")
_NAMELESS = re.compile(r"(^|\.)shadow_params\.\d+$")


def read(path: str, weights: str) -> Flat:
    """Read the network's tensors by name from the file at `path`, with `state_dict.read` and `unwrapped`."""
    try:
        return unwrapped(state_dict.read(path), weights)
    except UserError as error:
        raise error if path in str(error) else UserError(f"{path} {error}") from None


def unwrapped(flat: Flat, weights: str) -> Flat:
    """Select the network's tensors and remove prefixes from their names.

    Args:
        flat: Name → array.
        weights: 'ema' or 'raw', used if the file contains both.

    Raises:
        UserError: The EMA has no names, or all names have an unknown prefix. The text is the end of a sentence.
    """
    flat = {name: leaf for name, leaf in flat.items() if leaf.ndim or "." in name}  # step, decay, n_averaged
    flat = _stripped(_part(_stripped(flat), weights))
    firsts = {name.partition(".")[0] for name in flat}
    if len(flat) > 1 and len(firsts) == 1 and all("." in name for name in flat):
        prefix = f"{firsts.pop()}."
        raise UserError(
            f"has {prefix!r} before every name; save it without: torch.save({{k.removeprefix({prefix!r}): v "
            'for k, v in torch.load("old.pt", map_location="cpu", weights_only=True).items()}, "new.pt")'
        )
    return flat


def _part(flat: Flat, weights: str) -> Flat:
    """Return the model or its EMA if the file has them under a known key, else everything."""
    raw, average = _first(flat, _RAW), _first(flat, _AVERAGE)
    if any(_NAMELESS.search(name) for name in flat) and (weights == "ema" or not raw):
        other = "; config.evaluation.weights='raw' uses the raw model of the same file" if raw else ""
        raise UserError(
            "keeps an average as a list without names (shadow_params); copy it into the model, ema.copy_to("
            f"model.parameters()), and save that model's .state_dict(){other}"
        )
    first, second = (average, raw) if weights == "ema" else (raw, average)
    return first or second or flat


def _first(flat: Flat, words: Iterable[str]) -> Flat:
    """Return the entries under the first of `words` that is a prefix, without that prefix."""
    under = ({n.removeprefix(f"{w}."): leaf for n, leaf in flat.items() if n.startswith(f"{w}.")} for w in words)
    part: Flat = next(filter(None, under), {})
    return {name: leaf for name, leaf in part.items() if leaf.ndim or "." in name}


def _stripped(flat: Flat) -> Flat:
    """Remove known prefixes that all names share."""
    while prefix := next((p for p in _PREFIXES if flat and all(name.startswith(p) for name in flat)), ""):
        flat = {name.removeprefix(prefix): leaf for name, leaf in flat.items()}
    return flat
