"""The registry's decisions, without a clock, a socket or a file."""

from __future__ import annotations

import json
import random

import pytest

from mesh_supervisor.registry.book import LONGEST_ANSWER, MOST_AGENTS, MOST_TEXT, Beat, Book, Full, NotYours, Seat
from mesh_supervisor.registry.matching import choose
from mesh_supervisor.registry.records import Issued, read_record
from tests.registry.bodies import agent, needs, post, tool


def test_a_dependency_is_resolved_once_its_provider_is_there() -> None:
    book = Book()
    greeter = agent("greeter", tool("greet", needs("time")))
    assert post(book, greeter) == {"greet": [""]}
    assert post(book, agent("clock", tool("time"))) == {}
    assert post(book, greeter) == {"greet": ["clock"]}


def test_only_those_whose_resolution_changed_are_told() -> None:
    book = Book()
    post(book, agent("greeter", tool("greet", needs("time"))))
    post(book, agent("cook", tool("cook", needs("recipe"))))
    assert book.beat("greeter", 0, 0) is Beat.SAME
    post(book, agent("clock", tool("time")))
    assert book.beat("greeter", 0, 0) is Beat.CHANGED
    assert book.beat("cook", 0, 0) is Beat.SAME
    assert book.beat("clock", 0, 0) is Beat.SAME


def test_it_keeps_being_told_until_it_asks() -> None:
    book = Book()
    greeter = agent("greeter", tool("greet", needs("time")))
    post(book, greeter)
    post(book, agent("clock", tool("time")))
    assert [book.beat("greeter", 0, 0) for _ in range(2)] == [Beat.CHANGED] * 2
    post(book, greeter)
    assert book.beat("greeter", 0, 0) is Beat.SAME


def test_a_provider_that_came_back_the_same_is_no_change() -> None:
    book = Book()
    post(book, clock := agent("clock", tool("time")))
    post(book, agent("greeter", tool("greet", needs("time"))))
    book.withdraw("clock")
    post(book, clock)
    assert book.beat("greeter", 0, 0) is Beat.SAME


@pytest.mark.parametrize(
    "changed", [agent("clock", tool("time"), port=9001), agent("clock", tool("time", kwargs={"task": True}))]
)
def test_another_address_or_other_kwargs_of_the_provider_are_a_change(changed: dict[str, object]) -> None:
    book = Book()
    post(book, agent("clock", tool("time")))
    post(book, agent("greeter", tool("greet", needs("time"))))
    post(book, changed)
    assert book.beat("greeter", 0, 0) is Beat.CHANGED


def test_an_additional_worse_provider_is_no_change() -> None:
    book = Book()
    post(book, agent("a-clock", tool("time")))
    post(book, agent("greeter", tool("greet", needs("time"))))
    post(book, agent("b-clock", tool("time")))
    assert book.beat("greeter", 0, 0) is Beat.SAME


def test_alternatives_in_their_order() -> None:
    book = Book()
    chat = agent("chat", tool("chat", [needs("best"), needs("good")], needs("other")))
    assert post(book, chat) == {"chat": ["", ""]}
    post(book, agent("g", tool("good")))
    assert post(book, chat) == {"chat": ["g", ""]}
    post(book, agent("b", tool("best")))
    assert post(book, chat) == {"chat": ["b", ""]}
    assert json.loads("".join(book.answer("chat")))["chat"][1]["status"] == "unresolved"


def test_a_withdrawn_record_is_gone() -> None:
    book = Book()
    post(book, agent("clock", tool("time")))
    assert book.withdraw("clock") and not book.withdraw("clock")
    assert book.beat("clock", 0, 0) is Beat.GONE
    assert "clock" not in book.seats


def test_a_silent_agent_is_unhealthy_after_20_s_and_dropped_after_an_hour() -> None:
    book = Book()
    post(book, agent("clock", tool("time")), now=0)
    post(book, agent("greeter", tool("greet", needs("time"))), now=15)
    assert book.expire(19.9) == []
    assert book.expire(20) == ["clock"]
    assert book.expire(21) == []
    assert book.seats["clock"].status == "unhealthy"
    assert book.beat("clock", 21, 0) is Beat.GONE
    assert book.beat("greeter", 21, 0) is Beat.CHANGED
    book.expire(20 + 3600)
    assert "clock" not in book.seats


def test_after_a_pause_of_hours_all_are_late_before_they_are_dropped() -> None:
    """Of the process (docker pause). Who is told to be late can still be looked at."""
    book = Book()
    post(book, agent("clock", tool("time")), now=0)
    assert book.expire(20_000) == ["clock"]
    assert book.seats["clock"].status == "unhealthy"
    assert book.expire(20_001) == []
    assert "clock" not in book.seats


def test_a_heartbeat_prolongs_and_a_post_revives() -> None:
    book = Book()
    post(book, clock := agent("clock", tool("time")), now=0)
    book.beat("clock", 15, 0)
    assert book.expire(34) == []
    assert book.expire(35) == ["clock"]
    assert book.post(read_record(clock), "", 36, 0) is True
    assert book.beat("clock", 36, 0) is Beat.SAME


def test_one_that_says_it_is_unwell_is_listed_but_not_given_to_others() -> None:
    book = Book()
    post(book, agent("clock", tool("time"), status="degraded"))
    assert post(book, agent("greeter", tool("greet", needs("time")))) == {"greet": [""]}
    assert book.seats["clock"].status == "degraded"
    assert book.beat("clock", 0, 0) is Beat.SAME


def test_what_the_supervisor_announces_is_never_given_to_sdk_agents() -> None:
    book = Book()
    post(book, agent("web", tool("time"), agent_type="service", owner="me"))
    assert post(book, agent("greeter", tool("greet", needs("time")))) == {"greet": [""]}


# ---- owners --------------------------------------------------------------------------------------------------------


def issued(*generations: int, owner: str = "me") -> list[Issued]:
    return [Issued(f"clock-{one:04}", owner, "clock", one) for one in generations]


def test_the_newest_issued_generation_wins_in_either_order_of_arrival() -> None:
    for order in ([1, 2, 10], [10, 2, 1], [2, 10, 1]):
        book = Book()
        book.issue(issued(1, 2, 10))
        greeter = agent("greeter", tool("greet", needs("time")))
        post(book, greeter)
        for generation in order:
            post(book, agent(f"clock-{generation:04}", tool("time"), port=9000 + generation))
        assert post(book, greeter) == {"greet": ["clock-0010"]}
        book.withdraw("clock-0010")
        assert book.beat("greeter", 0, 0) is Beat.CHANGED
        assert post(book, greeter) == {"greet": ["clock-0002"]}


def test_ids_may_be_issued_after_the_agent_has_registered() -> None:
    book = Book()
    for generation in (1, 2):
        post(book, agent(f"clock-{generation:04}", tool("time")))
    greeter = agent("greeter", tool("greet", needs("time")))
    assert post(book, greeter) == {"greet": ["clock-0001"]}
    book.issue(issued(1, 2))
    assert book.beat("greeter", 0, 0) is Beat.CHANGED
    assert post(book, greeter) == {"greet": ["clock-0002"]}


def test_a_lease_renews_what_its_owner_announced_and_names_what_it_does_not_know() -> None:
    book = Book()
    post(book, agent("web", tool("web"), owner="me"), now=0)
    post(book, agent("alien", tool("web"), owner="you"), now=0)
    assert book.lease("me", 60, ["web", "alien", "gone"], 10, 0) == (["web"], ["alien", "gone"])
    assert book.expire(69) == ["alien"]
    assert book.expire(70) == ["web"]
    assert book.lease("me", 5, None, 71, 0) == (["web"], [])
    assert book.seats["web"].status == "healthy"
    assert book.expire(76) == ["web"]


def test_a_lease_does_not_keep_a_hung_sdk_agent() -> None:
    book = Book()
    book.issue(issued(1))
    post(book, agent("clock-0001", tool("time")), now=0)
    assert book.lease("me", 60, ["clock-0001"], 10, 0) == (["clock-0001"], [])
    assert book.expire(20) == ["clock-0001"]


def test_ghosts_are_withdrawn_but_never_those_of_another_owner() -> None:
    book = Book()
    book.issue(issued(1, 2))
    for body in (agent("clock-0001"), agent("clock-0002"), agent("web", owner="me"), agent("alien", owner="you")):
        post(book, body)
    post(book, agent("stranger"))
    assert sorted(book.forget("me", {"clock-0002"})) == ["clock-0001", "web"]
    assert sorted(book.seats) == ["alien", "clock-0002", "stranger"]
    assert list(book.issued) == ["clock-0002"]


def test_a_living_record_of_another_owner_cannot_be_taken_over() -> None:
    book = Book()
    post(book, agent("web", owner="me"), now=0)
    with pytest.raises(NotYours, match="web"):
        post(book, agent("web", owner="you"))
    book.expire(20)
    post(book, agent("web", owner="you"), now=21)
    assert book.seats["web"].record.owner == "you"


def test_a_full_book_drops_the_silent_and_refuses_when_all_are_alive() -> None:
    book = Book(most=2)
    post(book, agent("a"), now=0)
    post(book, agent("b"), now=5)
    with pytest.raises(Full, match="2 agents"):
        post(book, agent("c"), now=6)
    post(book, agent("b"), now=6)  # those who are here may still refresh
    book.expire(20)
    post(book, agent("c"), now=21)
    assert sorted(book.seats) == ["b", "c"]


def test_a_full_book_names_the_record_that_does_not_fit_and_serves_those_that_do_not_grow() -> None:
    book = Book(most_text=1000)
    post(book, grown := agent("grown", tool("a"), description="x" * 300))
    post(book, agent("old", tool("b"), description="x" * 100))
    with pytest.raises(Full, match="late: its record of 1 KiB does not fit"):
        post(book, agent("late", tool("c"), description="x" * 300))
    with pytest.raises(Full, match="grown: its record"):
        post(book, {**grown, "description": "x" * 900})
    assert set(book.seats) == {"grown", "old"} and book.seats["grown"].record.description == "x" * 300
    assert post(book, {**grown, "http_port": 9001}) == {}
    assert book.beat("grown", 0, 0) is Beat.SAME
    assert book.text == sum(seat.size for seat in book.seats.values())


def test_text_of_the_withdrawn_and_of_the_longest_silent_makes_room() -> None:
    book = Book(most_text=1000)
    for now, name in enumerate(["first", "second", "third"]):
        post(book, agent(name, description="x" * 200), now=now)
    book.withdraw("second")
    post(book, agent("fourth", description="x" * 200), now=10)
    assert set(book.seats) == {"first", "third", "fourth"}
    book.expire(25)
    post(book, agent("fifth", description="x" * 200), now=25)
    assert set(book.seats) == {"third", "fourth", "fifth"}
    post(book, agent("third", description="x" * 300), now=26)  # itself silent: it does not make way for itself
    assert set(book.seats) == {"third", "fourth", "fifth"}
    assert book.text == sum(seat.size for seat in book.seats.values())


def test_ten_thousand_ordinary_agents_fit() -> None:
    assert MOST_TEXT // MOST_AGENTS > 20_000


def test_another_records_kwargs_make_no_answer_endless() -> None:
    """A small record that asks a thousand times for a large one: what goes beyond is as if nobody was there."""
    book = Book()
    large = {"text": "x" * 60_000}
    post(book, agent("large", tool("large", kwargs=large)))
    post(book, agent("small", tool("small")))
    greedy = agent("greedy", tool("ask", *[needs("large")] * 999, needs("small")))
    told = post(book, greedy)["ask"]
    assert len("".join(book.answer("greedy"))) < 1.1 * LONGEST_ANSWER
    fitting = told.count("large")
    assert fitting == LONGEST_ANSWER // 60_200
    assert told == ["large"] * fitting + [""] * (999 - fitting) + ["small"]
    assert book.left_out("greedy") == 999 - fitting
    assert book.beat("greedy", 0, 0) is Beat.SAME
    post(book, agent("large", tool("large")))
    assert book.beat("greedy", 0, 0) is Beat.CHANGED
    assert post(book, greedy)["ask"] == ["large"] * 999 + ["small"]
    assert book.left_out("greedy") == 0


def test_an_agent_that_was_fine_stays_registered_when_its_provider_grows() -> None:
    book = Book()
    greedy = agent("greedy", tool("ask", *[needs("large")] * 1000))
    post(book, agent("large", tool("large")))
    assert post(book, greedy)["ask"] == ["large"] * 1000
    post(book, agent("large", tool("large", kwargs={"text": "x" * 60_000})))
    assert book.beat("greedy", 0, 0) is Beat.CHANGED
    assert "large" in post(book, greedy)["ask"]
    assert book.beat("greedy", 0, 0) is Beat.SAME


def test_what_is_restored_is_counted() -> None:
    book = Book(most_text=200)
    record = read_record(agent("clock"))
    book.restore(Seat(record, 0, 0, 20, 0, True, "", 150), 0)
    with pytest.raises(Full, match="late"):
        post(book, agent("late"))
    book.withdraw("clock")
    post(book, agent("late"))


def test_old_issued_ids_make_room_for_new_ones() -> None:
    book = Book(most=2)
    post(book, agent("clock-0001"))
    book.issue(issued(1, 2, 3, 4, 5))
    assert list(book.issued) == ["clock-0001", "clock-0003", "clock-0004", "clock-0005"]


# ---- what is written down ------------------------------------------------------------------------------------------


def test_after_a_restart_leases_start_anew_and_nobody_is_told_of_a_change() -> None:
    before = Book()
    before.issue(issued(1, 2))
    for body in (agent("clock-0001", tool("time")), agent("clock-0002", tool("time")), agent("web", owner="me")):
        post(before, body, now=0)
    post(before, agent("greeter", tool("greet", needs("time"))), now=0)
    before.lease("me", 60, None, 1, 0)

    after = Book()
    after.issued.update({one.id: one for one in issued(1, 2)})
    for saved in before.changes.take().agents.values():
        assert saved is not None and saved.body is not None
        record = read_record(json.loads(saved.body))
        after.restore(Seat(record, saved.created, saved.last_seen, saved.lease, 0, saved.alive, saved.told), 1000)
    assert after.beat("greeter", 1001, 0) is Beat.SAME
    assert after.seats["clock-0002"].record.generation == 2
    assert sorted(after.expire(1020)) == ["clock-0001", "clock-0002"]
    assert after.beat("greeter", 1020, 0) is Beat.CHANGED
    assert after.expire(1059) == ["greeter"]
    assert after.expire(1060) == ["web"]


def test_a_failed_write_loses_no_body_and_later_news_wins() -> None:
    book = Book()
    post(book, agent("a"))
    post(book, agent("b"))
    batch = book.changes.take()
    book.withdraw("b")
    book.expire(20)
    book.changes.put_back(batch)
    saved = book.changes.agents["a"]
    assert book.changes.agents["b"] is None
    assert saved is not None and saved.body is not None and not saved.alive


# ---- the shortcut in keeping winners against the plain rule --------------------------------------------------------


def test_the_kept_winner_is_always_the_one_that_a_full_search_finds() -> None:
    dice = random.Random(5)
    book = Book()
    book.issue([Issued(f"p{n}", "me", f"p{n % 3}", n) for n in range(6)])
    wants = [needs("c", version="^1"), needs("c", tags=["+x"]), needs("c", tags=["x"]), needs("c")]
    for now in range(600):
        match dice.randrange(4):
            case 0:
                book.withdraw(f"p{dice.randrange(9)}")
            case 1:
                book.expire(now)
            case _:
                version, tags = dice.choice(["1.0", "1.5", "2.0"]), dice.choice([[], ["x"]])
                post(book, agent(f"p{dice.randrange(9)}", tool("c", version=version, tags=tags)), now=now)
        told = post(book, agent("consumer", tool("f", *wants)), now=now)["f"]
        alive = [
            candidate for offers in book._offers.values() for candidates in offers.values() for candidate in candidates
        ]
        slots = book.seats["consumer"].record.tools[0].slots
        expected = [choose(slot[0], alive) for slot in slots]
        assert told == [found.record.id if found else "" for found in expected]
