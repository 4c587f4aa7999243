"""Values of several parts that people write as text: stages, views, strengths, mixes, members."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    Secret,
    ValidationError,
    model_serializer,
    model_validator,
)


class Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # an address may be among it
    )


class _Written(Frozen):
    """A value of several parts that people write as text; str() writes it, ``_read`` reads it."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        is_text = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        return cls._read(str(value).replace(" ", "")) if is_text else value

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        raise AssertionError(cls)

    @model_serializer
    def _as_text(self) -> str:
        return str(self)


class Stage(_Written):
    """One step of progressive training: photos of one size for some epochs."""

    height: int = Field(ge=32, le=2048)  # px
    width: int = Field(ge=32, le=2048)  # px
    epochs: int = Field(ge=1, le=1000)  # passes over the training photos

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
        if not found:
            raise ValueError(f"{text!r} is not HEIGHTxWIDTHxEPOCHS, as in 96x176x5,112x208x6")
        return dict(zip(("height", "width", "epochs"), map(int, found.groups()), strict=True))

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.epochs}"


class Views(_Written):
    """How many test-time views a photo gets: ``first``, and up to ``most`` where they disagree."""

    first: int = Field(ge=1, le=256)
    most: int = Field(ge=1, le=256)

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if not found:
            raise ValueError(f"{text!r} is not a number of views, as in 8 or 4-32")
        return {"first": int(found[1]), "most": int(found[2] or found[1])}

    @property
    def adaptive(self) -> bool:
        return self.most > self.first

    def __str__(self) -> str:
        return f"{self.first}-{self.most}" if self.adaptive else f"{self.first}"


class Strength(_Written):
    """Strength of the augmentation policy, falling along a line from the start to the end."""

    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        number = r"([\d.]+(?:e-\d+)?)"
        found = re.fullmatch(f"{number}(?:-{number})?", text)
        if not found:
            raise ValueError(f"{text!r} is not a strength, as in 1 or 1-0.5")
        return {"start": found[1], "end": found[2] or found[1]}

    def __str__(self) -> str:
        start, end = (repr(value).removesuffix(".0") for value in (self.start, self.end))
        return start if end == start else f"{start}-{end}"


class Mix(_Written):
    """Mixing of two photos and their labels: alpha of MixUp and of CutMix, 0 for neither."""

    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        parts = [part.partition(":") for part in text.split(",") if part not in ("", "0", "none")]
        if any(name not in ("mixup", "cutmix") or not alpha for name, _, alpha in parts):
            raise ValueError(f"{text!r} is not mixup:ALPHA, cutmix:ALPHA or both with a comma")
        return {name: alpha for name, _, alpha in parts}

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def __str__(self) -> str:
        alphas = {"mixup": self.mixup, "cutmix": self.cutmix}
        return ",".join(
            f"{name}:{repr(alpha).removesuffix('.0')}" for name, alpha in alphas.items() if alpha
        )


def hide(text: str) -> str:
    """The text, with no more than scheme and host of each address in it: the rest may be secret."""

    def hidden(found: re.Match[str]) -> str:
        more = "/…" if found[2] or found[4] not in ("", "/") else ""
        return found[1] + found[3] + more

    return re.sub(r"(\w+://)([^\s/?#]*@)?([^\s/?#]*)(\S*)", hidden, text)


def _check_address(text: str) -> str:
    """An address as it is posted to. Raises ValueError, whose words have nothing secret."""
    if not text:
        return ""
    if text.endswith("/…"):
        raise ValueError("only what may be shown of an address; expected the whole of it")
    if not re.fullmatch(r"https?://[^\s/?#\\][^\s\\]*", text, re.IGNORECASE):
        scheme = re.match(r"\w+:(?=//)", text)
        raise ValueError(
            f"found {f'{scheme[0]}//…' if scheme else 'no scheme'}; expected http:// or https:// "
            "and a host, as in http://localhost:9000, without blanks and backslashes"
        )
    try:
        address = AnyHttpUrl(text)
        if address.port == 0:
            raise ValueError("port 0; expected 1 to 65535")
        (address.host or "").strip("[]").encode("idna")
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None
    except UnicodeError:
        raise ValueError("its host has an empty or too long part") from None
    return str(address)


class Address(Secret[Annotated[str, AfterValidator(_check_address)]]):
    """Where something is posted, "" for nowhere; shown or written as scheme and host alone."""

    def _display(self) -> str:
        url = self.get_secret_value()
        whole = urlsplit(url)
        shown = f"{whole.scheme}://{whole.netloc.rpartition('@')[2]}"
        return url and shown + ("" if url.removesuffix("/") == shown else "/…")

    def __bool__(self) -> bool:
        return bool(self.get_secret_value())

    def parts(self) -> tuple[str, str]:
        """Root and path to post to: where there is no path, the one of Keras's RemoteMonitor."""
        whole = urlsplit(self.get_secret_value())
        path = whole.path + (whole.query and f"?{whole.query}")
        root = f"{whole.scheme}://{whole.netloc}"
        return root, path if path not in ("", "/") else "/publish/epoch/end/"


def read_members(text: str) -> list[dict[str, str]]:
    """``"seed=1+seed=2/pooling=max"`` → one mapping of settings a member."""
    members = []
    for part in text.split("+"):
        words = [word for word in re.split(r"/(?=\w+=)", part) if word]
        wrong = [word for word in words if "=" not in word]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not key=value, as in seed=1+seed=2/pooling=max")
        member = dict(word.split("=", 1) for word in words)
        if len(member) < len(words):
            raise ValueError(
                f"{part!r} has one setting twice; members are separated by +, their settings by /"
            )
        members.append(member)
    return members
