"""Cases with known results, as the page of the metric's Space shows them."""

_CARS = ["a blue car", "a red car", "a green bus"]

test_cases = [
    {
        "predictions": ["B", "The answer is (b).", "a red car"],
        "references": [1, 1, 1],
        "options": [_CARS, _CARS, _CARS],
        "result": {"accuracy": 1.0, "macro": {}, "by_group": {}, "unparsable": 0, "total": 3},
    },
    {
        "predictions": ["A or B", "I cannot tell", "", "B. a red car"],
        "references": [0, 1, 2, 1],
        "options": [_CARS, _CARS, _CARS, _CARS],
        "result": {"accuracy": 0.25, "macro": {}, "by_group": {}, "unparsable": 3, "total": 4},
    },
    {
        "predictions": ["C", "Yes"],
        "references": [1, 0],
        "options": [_CARS, ["Yes", "No"]],
        "result": {"accuracy": 0.5, "macro": {}, "by_group": {}, "unparsable": 0, "total": 2},
    },
]

__all__ = ["test_cases"]
