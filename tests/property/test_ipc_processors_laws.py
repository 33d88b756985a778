"""How processors are divided: nobody is left without one, and nobody shares what is divided."""

from hypothesis import given
from hypothesis import strategies as st

from purvey.ipc.processors import Core, divide, window

SHARES = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def machines(draw: st.DrawFn, *, min_size: int = 1) -> list[Core]:
    """Draw the cores of a machine: one thread each, or two, numbered in any order."""
    num_cores = draw(st.integers(min_size, 12))
    sizes = [draw(st.sampled_from((1, 2))) for _ in range(num_cores)]
    numbers = iter(draw(st.permutations(range(sum(sizes)))))
    return [Core(next(numbers) for _ in range(size)) for size in sizes]


@given(cores=machines(), job_share=SHARES)
def test_both_get_some_and_no_core_is_cut(cores: list[Core], job_share: float) -> None:
    everything = Core().union(*cores)
    division = divide(cores, job_share=job_share)
    if len(everything) == 1:
        assert division is None
        return
    assert division is not None
    assert division.jobs
    assert division.engines
    assert division.jobs | division.engines == everything
    assert not division.jobs & division.engines
    if len(cores) > 1:
        assert all(core <= division.jobs or core <= division.engines for core in cores)


@given(cores=machines(min_size=2), job_share=SHARES)
def test_jobs_get_their_share_and_engines_the_rest(cores: list[Core], job_share: float) -> None:
    division = divide(cores, job_share=job_share)
    assert division is not None
    num_jobs = sum(core <= division.jobs for core in cores)
    if num_jobs < len(cores) - 1:
        assert num_jobs >= len(cores) * job_share - 1e-6
    if num_jobs > 1:
        assert num_jobs < len(cores) * job_share + 1


@given(cores=machines())
def test_a_share_of_all_divides_nothing(cores: list[Core]) -> None:
    assert divide(cores, job_share=1.0) is None


@given(cores=machines(min_size=2), small=SHARES, large=SHARES)
def test_a_larger_share_takes_nothing_away(cores: list[Core], small: float, large: float) -> None:
    less, more = (divide(cores, job_share=share) for share in sorted((small, large)))
    assert less is not None
    assert more is not None
    assert less.jobs <= more.jobs


def test_what_the_page_says_of_common_machines() -> None:
    def jobs(num_cores: int, share: float = 0.5) -> int:
        division = divide([Core({n}) for n in range(num_cores)], job_share=share)
        assert division is not None
        return len(division.jobs)

    assert [jobs(num) for num in (2, 3, 4, 64)] == [1, 2, 2, 32]
    assert [jobs(64, share) for share in (0.0, 0.25, 0.99)] == [1, 16, 63]
    assert jobs(100, 0.07) == 7
    two_threads = divide([Core({0, 1})], job_share=0.5)
    assert two_threads is not None
    assert (two_threads.jobs, two_threads.engines) == (Core({0}), Core({1}))


@given(
    cores=machines(),
    num_processors=st.integers(1, 30),
    first=st.integers(0, 2**16),
)
def test_a_window_is_as_large_as_the_quota_and_has_no_gap(
    cores: list[Core], num_processors: int, first: int
) -> None:
    chosen = window(cores, num_processors=num_processors, first=first)
    size = sum(map(len, chosen))
    assert size >= min(num_processors, sum(map(len, cores)))
    assert size - len(chosen[-1]) < num_processors
    assert len(set(chosen)) == len(chosen)
    start = first % len(cores)
    around = cores[start:] + cores[:start]
    assert chosen == around[: len(chosen)]
