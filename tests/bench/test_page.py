"""The page needs nothing but itself, is well-formed, and shows the numbers of the record."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from made_up_report import PROCESSOR, made_up_report, report_and_summary

from s2dnas_deploy.bench.page import page_of
from s2dnas_deploy.bench.report import Example
from s2dnas_deploy.bench.summary import summarise
from s2dnas_deploy.errors import RecordError
from s2dnas_deploy.runtime.charts import Line, lines, stacked

VOID = {"meta", "br", "img"}


@pytest.fixture(scope="module")
def shown():
    report, summary = report_and_summary()
    return page_of(report, [summary])


class Balance(HTMLParser):
    """Fails on a tag that is closed without having been opened, or never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing_else(shown):
    balance = Balance()
    balance.feed(shown)
    assert balance.open == []
    assert not {tag for tag, _ in balance.seen} & {"script", "link", "iframe"}
    assert not [a for _, a in balance.seen if "href" in a]
    assert all(a["src"].startswith("data:image/jpeg;base64,/9j/") for _, a in balance.seen if "src" in a)
    assert "url(" not in shown
    assert "http" not in shown


def test_images_of_each_exit_are_shown_with_what_they_are_answered(shown):
    first, second = (
        shown.index(f"exit {k}, {share}% of the images") for k, share in ((0, "60.0"), (1, "20.0"))
    )
    strip = shown[first:second]
    assert strip.count("<img ") == 2
    assert "<figcaption>cat &lt;b&gt;</figcaption>" in strip
    assert '<figure class="wrong">' in strip
    assert "<figcaption>dog, answered cat &lt;b&gt;</figcaption>" in strip
    assert "exit 2, 20.0% of the images" not in shown
    report, summary = report_and_summary()
    assert "Some of the images" not in page_of(replace(report, examples=()), [summary])


@pytest.mark.parametrize("jpeg", ["/9j/'><script>", "iVBORw0KGgo=", "/9j/" + "A" * 2**12, ""])
def test_what_is_no_small_picture_is_no_example(jpeg):
    with pytest.raises(RecordError, match="jpeg"):
        Example(exit=0, truth=None, answer="cat", jpeg=jpeg)


def test_names_are_escaped(shown):
    assert PROCESSOR not in shown
    assert "Quick &amp; &lt;Dirty&gt; 9000" in shown


def test_the_numbers_are_those_of_the_record(shown):
    _, summary = report_and_summary()
    assert f"{summary.subjects['cascade'].mean.value:.3f} ms" in shown
    assert f"{summary.speed_up.realised.value:.2f}x" in shown
    assert "87.50%" in shown
    assert f"{summary.subjects['static'].quantiles['p90'].value:.4f}" in shown
    assert "cascade 2.000 mJ by RAPL" in shown


def test_charts_are_well_formed_and_stay_in_their_frame(shown):
    charts = re.findall(r"<svg.*?</svg>", shown, re.DOTALL)
    assert charts
    for svg in charts:
        root = ElementTree.fromstring(svg)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for rect in root.iter("rect"):
            x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
            assert 0 <= x <= x + w <= width
            assert 0 <= y <= y + h <= height
        for text in root.iter("text"):
            if text.attrib["text-anchor"] == "start":  # of a legend, in a font whose letters are wide
                assert float(text.attrib["x"]) + 6.4 * len(text.text) <= width, text.text
                assert float(text.attrib["y"]) < height


def test_a_legend_says_all_of_a_long_name():
    name = "stages beyond their share of MACs (narrow kernels, hand-over)"
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", stacked([(name, 0.5), ("short", 0.5)], "ms"))
    assert " ".join(texts) == f"{name}: 0.5000 ms short: 0.5000 ms"


def test_a_report_without_static_network_or_labels_is_shown_too():
    report = made_up_report(blocks=10, static=False)
    blind = replace(report.answers, cascade_accuracy=None, exit_accuracy=None)
    report = replace(report, answers=blind)
    shown = page_of(report, [summarise(run, report) for run in report.runs])
    assert "as the last exit" in shown
    assert "no static network was measured" in shown


def test_one_point_makes_a_chart():
    ElementTree.fromstring(lines([Line(name="only", points=((1.0, 2.0),))], "x", "y"))
