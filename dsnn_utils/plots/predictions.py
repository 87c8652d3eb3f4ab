"""What networks see and what they take it for: images, confusions, mistakes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from dsnn_utils.plots.style import GREY, TWO_COLUMNS, DualFigure, heatmap, new_axes, styled

LONGEST_NAME = 12  # letters of a class that fit above an image


@styled
def plot_images(images, labels, classes: Sequence[str], per_class: int = 2) -> DualFigure:
    """The first images of each class, a column per class.

    images: uint8 (N, C, H, W) with 1 or 3 channels; labels: (N,) indices into `classes`. Of more
    than ten classes the first ten are shown.
    """
    labels = np.asarray(labels)
    shown = range(min(10, len(classes)))
    figure, axes = new_axes(
        TWO_COLUMNS, 0.2 + 0.68 * per_class, per_class, len(shown), squeeze=False
    )
    found = {index: np.flatnonzero(labels == index)[:per_class] for index in shown}
    for column, index in enumerate(shown):
        for axis in axes[:, column]:
            axis.axis("off")
        for axis, image in zip(axes[:, column], found[index], strict=False):
            _show(axis, images[image])
        axes[0, column].set_title(_short(classes[index]), fontsize=7)
    data = pd.DataFrame(
        [(classes[index], image) for index, some in found.items() for image in some],
        columns=["class", "image"],
    )
    return DualFigure(figure, data=data, description=f"Images of {len(shown)} classes")


@styled
def plot_confusions(
    probabilities: Mapping[str, object], labels, classes: Sequence[str]
) -> DualFigure:
    """What networks take the images of each class for: a panel each, mistakes alone coloured.

    probabilities: {name: (N, classes)}, as `training.predict` gives them; labels: (N,). Numbers are
    images; those on the grey diagonal are right.
    """
    labels, n = np.asarray(labels), len(classes)
    counts = {}
    for name, values in probabilities.items():
        predicted = np.asarray(values).argmax(1)
        counts[name] = np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)
    worst = max(1, *(int(_mistakes(table).max()) for table in counts.values()))
    figure, axes = new_axes(TWO_COLUMNS, 2.85, 1, len(counts), squeeze=False, sharey=True)
    names = [_short(name) for name in classes]
    for axis, (name, table) in zip(axes[0], counts.items(), strict=True):
        wrong = _mistakes(table)
        image = heatmap(axis, pd.DataFrame(wrong, names, names), "Oranges", 0, worst)
        axis.invert_yaxis()  # as one reads: the first class on top
        for row, column in zip(*table.nonzero(), strict=True):
            right = row == column
            if n <= 10:  # more classes leave no room for numbers
                dark = not right and wrong[row, column] > 0.6 * worst
                colour = GREY if right else "white" if dark else "black"
                text = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
                axis.text(column, row, str(table[row, column]), **text)
        axis.set(xlabel="Taken for (class)", title=f"{name}\n{int(wrong.sum())} wrong")
        if max(map(len, names)) > 2:
            axis.tick_params(axis="x", labelrotation=90)
        if n > 10:
            axis.set(xticks=[], yticks=[])
    axes[0][0].set_ylabel("Class of the image")
    bar = figure.colorbar(image, ax=axes[0].tolist(), shrink=0.8, aspect=30)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    bar.set_label("Mistakes (images)")
    rows = [
        (name, classes[row], classes[column], table[row, column])
        for name, table in counts.items()
        for row, column in zip(*table.nonzero(), strict=True)
    ]
    data = pd.DataFrame(rows, columns=["network", "class", "taken_for", "images"])
    return DualFigure(figure, data=data, description=f"Confusions of {', '.join(counts)}")


@styled
def plot_mistakes(
    probabilities: Mapping[str, object], images, labels, classes: Sequence[str], most: int = 8
) -> DualFigure:
    """The most confident mistakes: a row of images per network, the surest on the left.

    Above each image its class, what it is taken for and with which probability. Arguments as of
    `plot_images` and `plot_confusions`.
    """
    labels, rows = np.asarray(labels), []
    for name, values in probabilities.items():
        values = np.asarray(values)
        predicted, sure = values.argmax(1), values.max(1)
        wrong = np.flatnonzero(predicted != labels)
        for image in wrong[np.argsort(-sure[wrong], kind="stable")][:most]:
            pair = classes[labels[image]], classes[predicted[image]]
            rows.append((name, image, *pair, sure[image]))
    data = pd.DataFrame(rows, columns=["network", "image", "class", "taken_for", "probability"])
    figure, axes = new_axes(
        TWO_COLUMNS, 1.15 * len(probabilities), len(probabilities), most + 1, squeeze=False
    )
    for line, name in zip(axes, probabilities, strict=True):
        for axis in line:
            axis.axis("off")
        own = data[data["network"] == name]
        text = name if len(own) else f"{name}:\nno mistake"
        line[0].text(0, 0.5, text.replace(" (", "\n("), va="center", transform=line[0].transAxes)
        for axis, row in zip(line[1:], own.itertuples(), strict=False):
            _show(axis, images[row.image])
            taken = f"{_short(row[3])}\n→ {_short(row.taken_for)}\n{100 * row.probability:.0f} %"
            axis.set_title(taken, fontsize=7)
    description = f"Most confident mistakes of {', '.join(probabilities)}"
    return DualFigure(figure, data=data, description=description)


def _mistakes(table: np.ndarray) -> np.ndarray:
    return table - np.diag(np.diag(table))


def _show(axis, image) -> None:
    pixels = np.moveaxis(np.asarray(image), 0, -1)
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
