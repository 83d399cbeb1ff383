"""Cases with known results, as the page of the metric's Space shows them."""

_NONE_LEFT_OUT = {"refused": 0, "malformed": 0, "failed": 0}

test_cases = [
    {
        "predictions": [
            {"status": "judged", "correct": True, "score": 5},
            {"status": "judged", "correct": False, "score": 2},
        ],
        "result": {
            "accuracy": 0.5,
            "score": 3.5,
            "macro": {},
            "by_group": {},
            "judged": 2,
            **_NONE_LEFT_OUT,
            "total": 2,
        },
    },
    {
        "predictions": [
            {"status": "judged", "correct": True, "score": 4},
            {"status": "refused", "correct": None, "score": None},
            {"status": "malformed", "correct": None, "score": None},
        ],
        "result": {
            "accuracy": 1.0,
            "score": 4.0,
            "macro": {},
            "by_group": {},
            "judged": 1,
            "refused": 1,
            "malformed": 1,
            "failed": 0,
            "total": 3,
        },
    },
    {
        "predictions": [{"status": "judged", "correct": None, "score": score} for score in (1, 2, 3)],
        "result": {
            "accuracy": None,
            "score": 2.0,
            "macro": {},
            "by_group": {},
            "judged": 3,
            **_NONE_LEFT_OUT,
            "total": 3,
        },
    },
]

__all__ = ["test_cases"]
