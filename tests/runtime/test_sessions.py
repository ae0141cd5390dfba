import time

from float_graphs import CONFIG
from networks import images

from levit_deploy.runtime.sessions import runner


def test_one_thread_is_the_callers_own(plain):
    """So the time of that thread is all that a network takes."""
    run, given = runner(plain.SerializeToString(), None, threads=1), images(CONFIG, 8).numpy()
    run(given)
    mine, everybodys = time.thread_time(), time.process_time()
    for _ in range(20):
        run(given)
    assert time.thread_time() - mine > 0.9 * (time.process_time() - everybodys)
