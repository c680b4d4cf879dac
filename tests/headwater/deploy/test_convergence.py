"""When a service is well, and what is said of one that is not."""

from __future__ import annotations

from headwater.deploy.convergence import State, Status, Task, judge

RUNNING = Task(state="running", desired="running", at="2")


def _judge(*tasks: Task, wanted: int = 1, once: bool = False, update: str = "") -> Status:
    return judge("s", "a", image="i:1", wanted=wanted, once=once, update=update, tasks=tasks)


def test_service_with_all_its_tasks_is_well() -> None:
    status = _judge(RUNNING)
    assert (status.state, status.running, status.wanted, status.error) == (State.WELL, 1, 1, "")


def test_error_of_before_is_not_told_of_a_service_that_is_well() -> None:
    assert _judge(Task(state="failed", desired="shutdown", error="boom", at="1"), RUNNING).error == ""


def test_task_of_the_old_specification_does_not_count() -> None:
    old = Task(state="running", desired="running", current=False)
    assert _judge(old, update="updating").state is State.WAITING
    assert _judge(old).running == 0


def test_service_that_nobody_wants_is_well() -> None:
    assert _judge(wanted=0).state is State.WELL


def test_update_that_was_taken_back_has_failed_though_something_runs() -> None:
    failed = Task(
        id="was-taken-back", state="failed", desired="shutdown", error="task: non-zero exit (2)", exit_code=2, at="1"
    )
    status = _judge(failed, RUNNING, update="rollback_completed")
    assert status.state is State.FAILED
    assert "taken back" in status.error
    assert "non-zero exit (2)" in status.error
    # Of which one its last words are to be asked for.
    assert status.task == "was-taken-back"


def test_youngest_error_is_told_with_node_and_exit_code() -> None:
    status = _judge(
        Task(state="rejected", desired="shutdown", error="No such image: x", node="n1", at="1"),
        Task(state="failed", desired="shutdown", error="task: non-zero exit (64)", exit_code=64, node="n2", at="2"),
        Task(state="preparing", desired="running", at="3"),
    )
    assert status.state is State.WAITING
    assert status.error == "failed on n2: task: non-zero exit (64) (exit code 64)"


def test_placement_that_no_node_fits_is_told() -> None:
    status = _judge(Task(state="pending", desired="running", error="no suitable node (scheduling constraints)"))
    assert "no suitable node" in status.error


def test_health_check_that_does_not_pass_is_told() -> None:
    assert "health check" in _judge(Task(state="starting", desired="running", at="1")).error


def test_service_without_any_task_says_so() -> None:
    assert "no node" in _judge().error


def test_what_runs_once_is_done_when_a_task_of_it_has_completed() -> None:
    done = Task(state="complete", desired="shutdown", at="2")
    failed = Task(state="failed", desired="shutdown", error="x", exit_code=3, at="1")
    assert _judge(failed, done, once=True).state is State.DONE
    assert _judge(failed, done, once=True).error == ""


def test_what_ran_once_before_a_change_has_to_run_again() -> None:
    old = Task(state="complete", desired="shutdown", current=False, at="1")
    assert _judge(old, Task(state="starting", desired="running", at="2"), once=True).state is State.WAITING


def test_what_runs_once_and_fails_is_waited_for_and_its_error_told() -> None:
    status = _judge(Task(state="failed", desired="shutdown", error="boom", exit_code=3, at="1"), once=True)
    assert status.state is State.WAITING
    assert "boom" in status.error
