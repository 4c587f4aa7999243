"""Settings that do not go together: what is wrong, as a sentence, or "" (cfg is a Config)."""

from __future__ import annotations

import re
from typing import Any

BLENDS = ("auto", "best", "average", "weights", "logistic", "forest")


def of_network(cfg: Any) -> str:
    """Why the settings of one network do not go together, or ""."""
    if not cfg.stages:
        return "stages: at least one HEIGHTxWIDTHxEPOCHS is needed"
    if cfg.unfreeze == "staged" and len(cfg.stages) < 2:
        return "unfreeze=staged opens the network from stage to stage: at least two are needed"
    if cfg.strength.end > cfg.strength.start:
        return f"strength {cfg.strength}: augmentation weakens towards the end"
    if cfg.views.most < cfg.views.first:
        return f"views {cfg.views.first}-{cfg.views.most}: the second number is the larger one"
    if cfg.views.adaptive and cfg.views.first < 2:
        return f"views {cfg.views}: one view cannot disagree; at least 2 before the -"
    if cfg.views.most > 2 and not cfg.strength.start:
        return f"views {cfg.views} with strength 0: all views after the mirror image are the same"
    if cfg.augment not in ("light", "medium") and cfg.views.most > 1:
        return (
            f"views {cfg.views} with augment {cfg.augment}: the views are drawn from light, which "
            "training has with augment light or medium only; set one of them, or views=1"
        )
    if cfg.oversample and cfg.class_weights != "none":
        return (
            f"oversample=true with class_weights={cfg.class_weights}: both make rare classes count "
            "more, and together too much; set one of them"
        )
    if 0 < cfg.bn_photos < 32:
        return f"bn_photos {cfg.bn_photos}: too few for statistics; at least 32, or 0"
    return ""


def of_ensemble(cfg: Any) -> str:
    """Why what is set of members, blend and pseudo-labels does not go together, or ""."""
    weight = r"(\d+\.?\d*|\.\d+)"
    if cfg.blend not in BLENDS and not re.fullmatch(f"{weight}(/{weight})*", cfg.blend, re.ASCII):
        return f"blend {cfg.blend!r}: expected one of {', '.join(BLENDS)}, or weights as 0.9/0.1"
    if cfg.blend not in BLENDS and len(cfg.blend.split("/")) != len(cfg.members):
        found, wanted = len(cfg.blend.split("/")), len(cfg.members)
        counts = f"{found} weight{'s' * (found > 1)} for {wanted} member{'s' * (wanted > 1)}"
        return f"blend {cfg.blend}: {counts}; expected one for each"
    if cfg.pseudo and (cfg.views.first < 4 or cfg.tta == "never"):
        return (
            f"pseudo with views {cfg.views} and tta {cfg.tta}: whether views agree takes at least "
            "4 of them"
        )
    if cfg.pseudo and cfg.folds > 1:
        return f"pseudo with folds {cfg.folds}: a network goes on with one split only; set folds=1"
    if len(cfg.members) > 1:
        texts = [member.model_dump_json() for member in cfg.member_cfgs()]
        if len(set(texts)) < len(texts):
            return (
                "two members have the same settings, so their average is no better than one; give "
                "them other seeds"
            )
    return ""
