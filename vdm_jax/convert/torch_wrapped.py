"""What stands around the names of a state_dict: wrappers of the module, and the other parts of a checkpoint.

    unwrapped({"model.module.conv.weight": w, "optimizer.state.0.exp_avg": m, "step": n}, "raw") → {"conv.weight": w}

DataParallel writes 'module.' before every name, torch.compile '_orig_mod.', Lightning's modules mostly 'model.', and
AveragedModel 'module.' beside a count. None of the originals has a module of such a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vdm_jax.convert import state_dict
from vdm_jax.convert.vdm_layout import Flat
from vdm_jax.errors import UserError

_PREFIXES = ("module.", "_orig_mod.", "model.", "shadow.")
# What checkpoints call the model and its average beside an optimizer, a step and the like.
_RAW = ("model", "model_state_dict", "state_dict", "online_model", "net")
_AVERAGE = ("ema", "ema_model", "model_ema", "ema_state_dict", "model_ema_state_dict")
_NAMELESS = re.compile(r"(^|\.)shadow_params\.\d+$")


def read(path: str, weights: str) -> Flat:
    """Name → tensor of the network in the file at `path`; as `state_dict.read` and `unwrapped`."""
    try:
        return unwrapped(state_dict.read(path), weights)
    except UserError as error:
        raise error if path in str(error) else UserError(f"{path} {error}") from None


def unwrapped(flat: Flat, weights: str) -> Flat:
    """The network's tensors by their own names, without what is not of the network.

    weights: 'ema' or 'raw', which is taken where the file holds both. Raises UserError, as the end of a sentence about
    the file, if the average has no names, or all names begin with a word that is not known here.
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
    """The model or its average, if the file holds them under one of the known names; else everything."""
    raw, average = _first(flat, _RAW), _first(flat, _AVERAGE)
    if any(_NAMELESS.search(name) for name in flat) and (weights == "ema" or not raw):
        other = "; config.evaluation.weights='raw' takes the model beside it" if raw else ""
        raise UserError(
            "keeps an average as a list without names (shadow_params); copy it into the model, ema.copy_to("
            f"model.parameters()), and save that model's .state_dict(){other}"
        )
    first, second = (average, raw) if weights == "ema" else (raw, average)
    return first or second or flat


def _first(flat: Flat, words: Iterable[str]) -> Flat:
    """What lies under the first of the words that begins a name."""
    under = ({n.removeprefix(f"{w}."): leaf for n, leaf in flat.items() if n.startswith(f"{w}.")} for w in words)
    found: Flat = next(filter(None, under), {})
    return {name: leaf for name, leaf in found.items() if leaf.ndim or "." in name}


def _stripped(flat: Flat) -> Flat:
    """Without the prefixes that all names have."""
    while prefix := next((p for p in _PREFIXES if flat and all(name.startswith(p) for name in flat)), ""):
        flat = {name.removeprefix(prefix): leaf for name, leaf in flat.items()}
    return flat
