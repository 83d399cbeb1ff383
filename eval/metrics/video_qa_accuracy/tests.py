"""Cases with known results, as the page of the metric's Space shows them."""

test_cases = [
    {
        "predictions": ["A red car.", "two", "Playing the guitar"],
        "references": ["red car", "2", "playing guitar"],
        "result": {"accuracy": 1.0, "macro": {}, "by_group": {}, "total": 3},
    },
    {
        "predictions": ["a car", "yes"],
        "references": ["a red car", "no"],
        "result": {"accuracy": 0.0, "macro": {}, "by_group": {}, "total": 2},
    },
    {
        "predictions": ["dog", "cat"],
        "references": ["a dog", "the bird"],
        "result": {"accuracy": 0.5, "macro": {}, "by_group": {}, "total": 2},
    },
]

__all__ = ["test_cases"]
