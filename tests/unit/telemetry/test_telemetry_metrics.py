"""Metrics: all in one registry, with our prefix, a unit and bounded labels."""

from prometheus_client.parser import text_string_to_metric_families

from purvey.telemetry import metrics

BOUNDED = {
    "route",
    "method",
    "status",
    "kind",
    "model",
    "where",
    "reason",
    "le",
    "used_by",
    "upstream",
    "state",
}


def test_the_exposition_is_readable_and_counts() -> None:
    before = metrics.REGISTRY.get_sample_value("purvey_broad_catches_total", {"where": "test"})
    metrics.BROAD_CATCHES.labels("test").inc()
    families = {f.name: f for f in text_string_to_metric_families(metrics.exposition().decode())}
    (sample,) = [
        s
        for s in families["purvey_broad_catches"].samples
        if s.labels == {"where": "test"} and s.name.endswith("_total")
    ]
    assert sample.value == (before or 0) + 1


def test_labels_are_from_the_closed_list() -> None:
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        if family.name.startswith("purvey_"):
            for sample in family.samples:
                assert sample.labels.keys() <= BOUNDED, sample.name


def test_every_metric_is_ours_or_the_process() -> None:
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        assert family.name.startswith(("purvey_", "process_")), family.name
        assert family.documentation, family.name
