"""Cases with known results, as the page of the metric's Space shows them."""

_PAIRS = {"references": ["yes", "no"] * 2, "pairs": ["1", "1", "2", "2"], "halves": ["basic", "hallucination"] * 2}
_NO_GROUPS: dict[str, dict] = {"macro": {}, "by_group": {}}

test_cases = [
    {
        "predictions": ["Yes, there is a dog.", "No.", "yes", "no"],
        **_PAIRS,
        "result": {
            "accuracy": 1.0,
            "basic": 1.0,
            "hallucination": 1.0,
            **_NO_GROUPS,
            "unparsable": 0,
            "incomplete_pairs": 0,
            "total": 2,
        },
    },
    {
        "predictions": ["yes", "yes", "yes", "yes"],
        **_PAIRS,
        "result": {
            "accuracy": 0.0,
            "basic": 1.0,
            "hallucination": 0.0,
            **_NO_GROUPS,
            "unparsable": 0,
            "incomplete_pairs": 0,
            "total": 2,
        },
    },
    {
        "predictions": ["yes", "no", "I cannot tell", "no"],
        **_PAIRS,
        "result": {
            "accuracy": 0.5,
            "basic": 0.5,
            "hallucination": 1.0,
            **_NO_GROUPS,
            "unparsable": 1,
            "incomplete_pairs": 0,
            "total": 2,
        },
    },
]

__all__ = ["test_cases"]
