import time

from levit_deploy.bench import time_side_by_side


def test_callables_take_turns_and_the_warmup_is_not_counted():
    calls = []
    pauses = {"slow": iter([0.3] + [0.02] * 5), "fast": iter([0.3] + [0.001] * 5)}

    def pause(name):
        calls.append(name)
        time.sleep(next(pauses[name]))

    times = time_side_by_side(
        {"slow": lambda: pause("slow"), "fast": lambda: pause("fast")}, rounds=5, warmup=1
    )
    assert calls == ["slow", "fast"] * 6
    assert 0.02 <= times["slow"] < 0.3  # a mean over all rounds would be above 0.06
    assert 0.001 <= times["fast"] < times["slow"]
