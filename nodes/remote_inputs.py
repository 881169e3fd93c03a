"""Sockets and widgets that the nodes of the remote service share, and what they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..pipelines.parameters import UpscaleParameters
from ..pipelines.remote.errors import RemoteError
from ..pipelines.remote.options import RemoteOptions
from ..pipelines.remote.payload import PICTURE_FIELD, fal_parameters, make_arguments
from ..pipelines.settings import MAX_SEED, Parameter
from .compat import advanced, io
from .widgets import make_widget

if TYPE_CHECKING:
    from ..pipelines.remote.preparing import RemotePicture

ALWAYS_SHOWN = ("endpoint", "credential", "force_new")


def picture_inputs() -> list[io.Input]:
    """Everything that says what to make of which picture, and how."""
    settings = [_widget(p) for p in fal_parameters()]
    options = [_widget(option) for option in RemoteOptions.declared()]
    return [
        io.Image.Input(
            "image", optional=True, tooltip="The picture, or a batch: each is a request of its own."
        ),
        *[widget for widget in settings if not widget.optional],
        *[widget for widget in options if not widget.optional],
        advanced(
            io.String.Input(
                PICTURE_FIELD,
                default="",
                optional=True,
                tooltip="Address of a hosted picture, in place of image; passed on as it is, not read here. "
                "It is saved in the workflow.",
            )
        ),
        *[widget for widget in settings if widget.optional],
        *[widget for widget in options if widget.optional],
    ]


def option_inputs(*names: str) -> list[io.Input]:
    """The widgets of some options."""
    return [_widget(option) for option in RemoteOptions.declared() if option.name in names]


def _widget(parameter: Parameter) -> io.WidgetInput:
    if parameter.type is str and parameter.default is None:
        widget = io.String.Input(parameter.name, default="", tooltip=parameter.help, optional=True)
        return advanced(widget)
    return make_widget(parameter)


@dataclass(frozen=True)
class Asked:
    """What the widgets of a node ask for."""

    pictures: list[RemotePicture]
    options: RemoteOptions
    seed: int


def read_inputs(image: Tensor | None, values: dict[str, Any]) -> Asked:
    """From sockets and widgets. Raises `RemoteError` unless there is just one of image and address."""
    from ..pipelines.remote.preparing import RemotePicture  # noqa: PLC0415  Pillow and the network

    url = values.pop(PICTURE_FIELD, "").strip()
    if (image is None) == (not url):
        raise RemoteError(
            f"connect a picture to image, or give the address of one as {PICTURE_FIELD}; not both"
        )
    options = read_options(values)
    # An empty text is an address that was not given.
    optional = {p.name for p in fal_parameters() if p.optional}
    settings = {name: None if name in optional and value == "" else value for name, value in values.items()}
    parameters = UpscaleParameters(**settings)
    first = parameters.seed or 0
    if image is None:
        source = RemotePicture(arguments=make_arguments(parameters, seed=first), label="picture", url=url)
        return Asked([source], options, first)
    count = len(image)
    pictures = [
        RemotePicture(
            arguments=make_arguments(parameters, seed=(first + number) % (MAX_SEED + 1)),
            label=f"picture {number + 1}" if count > 1 else "picture",
            image=image[number : number + 1].movedim(-1, 1),
        )
        for number in range(count)
    ]
    return Asked(pictures, options, first)


def read_options(values: dict[str, Any]) -> RemoteOptions:
    """The options among `values`, which are removed from them."""
    names = [option.name for option in RemoteOptions.declared() if option.name in values]
    return RemoteOptions(**{name: values.pop(name) for name in names})
