"""A picture of a calibration: accuracy against cost along the path, and the point that was chosen."""

from s2dnas_deploy.decide.thresholds import Point
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.runtime.calibrate.calibration import Calibration
from s2dnas_deploy.runtime.charts import Line, as_file, lines


def calibration_svg(calibration: Calibration) -> str:
    """The picture, as text."""
    choice = calibration.choice
    unit, scale = ("ms", 1.0) if calibration.unit == "ms" else ("M MACs", 1e-6)

    def at(point: Point) -> tuple[float, float]:
        return point.cost * scale, 100 * (1 - point.loss if point.accuracy is None else point.accuracy)

    x, y = at(choice.point)
    drawn = (
        Line(
            name=f"on {number_of(calibration.images, 'image')}", points=tuple(sorted(map(at, choice.curve)))
        ),
        Line(name="every stage", points=(at(choice.full),), joined=False),
        Line(name=f"chosen: {y:.2f}% at {x:.3g} {unit}", points=((x, y),), joined=False),
    )
    what = "accuracy, %" if choice.full.accuracy is not None else "same answers as the last exit, %"
    chart = lines(drawn, f"average cost of an image, {unit}", what)
    return as_file(chart, f"{calibration.manifest.name}: thresholds") + "\n"
