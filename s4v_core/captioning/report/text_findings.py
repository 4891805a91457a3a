"""The table of what checks without labels found: contradictions and repeated texts."""

from s4v_core.captioning.repetition import FrequentTexts
from s4v_core.captioning.report.survey import Survey
from s4v_core.pages.charts import escaped

_LEAST_IMAGES = 3
"""Images that share a text before it is shown: two may be alike."""

_SHOWN = 15
_SHOWN_CHARS = 300


def build_checks(survey: Survey) -> str:
    """HTML of the section."""
    found = (
        f"<p>{survey.contradicting:,} captions name what they deny (English only; see the gallery)."
        "</p>"
    )
    return (
        f"<h2>Checks</h2>{found}"
        f"{_list_texts('The same caption', survey.repeated.captions)}"
        f"{_list_texts('The same sentence', survey.repeated.sentences)}"
    )


def _list_texts(title: str, texts: FrequentTexts) -> str:
    shared = texts.list_shared(_LEAST_IMAGES, _SHOWN)
    if not shared:
        return f"<p>{title}: not for {_LEAST_IMAGES} different images.</p>"
    rows = "".join(
        f"<tr><td class=number>{one.images:,}</td><td>{escaped(one.text[:_SHOWN_CHARS])}</td></tr>"
        for one in shared
    )
    return f"<table><tr><th class=number>images<th>{title} for different images{rows}</table>"
