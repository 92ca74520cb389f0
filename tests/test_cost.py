"""What the tests say about their own time."""


def test_within_the_budget_it_is_one_line(format_cost):
    (line,) = format_cost(480.4, 850.0, "Some Processor, 2 cores", {"tests/test_a.py": 400.0})
    assert line == "480 s, 850 s of CPU time, on Some Processor, 2 cores; the budget is 600 s"


def test_over_the_budget_the_slowest_files_are_named(format_cost):
    durations = {f"tests/test_{number}.py": float(number) for number in range(12)}
    first, *others = format_cost(601.0, 1100.0, "Some Processor, 2 cores", durations)
    assert "OVER THE BUDGET of 600 s" in first
    assert others[0] == "      11 s  tests/test_11.py" and others[-1] == "       2 s  tests/test_2.py"
    assert len(others) == 10
