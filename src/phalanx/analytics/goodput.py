"""What users of one address get, look by look: what is usual, and what of less is harm, not chance.

Users who ask seldom get now more, now less. So what they got is compared, in packets, with what
they were due, and has to be less by more than both vary; and looks in a row have to be rarer than
chance makes them. What each user gets counts, as who leaves takes nothing from those who stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping
from heapq import nlargest
from itertools import islice
from math import inf, sqrt
from operator import itemgetter
from statistics import median

from msgspec import Struct, field

from phalanx.analytics.statistics import Z

BREACHED, RESTORED = 0.7, 0.9
"""Shares of the usual goodput below which a service is breached, and above which it is back. Soon
after an attack the second one is that for both."""
USUAL_LOOKS = 20
"""Looks whose median is what is usual: a flood that is served does not change it in a few."""
LEARNED = 5
"""Looks after which it is known what is usual."""
IN_A_ROW, LOW_S = 2, 0.9
"""Looks with too little goodput that make a breach, and how long after the first one the last is:
a machine that is busy elsewhere for a moment serves nobody."""
CHANCE = 1e-4
"""What few users who ask seldom get varies; a breach is what is by chance rarer than this."""
CALM_LOOKS, FEW_CALM = 60, 20
"""Looks that show what chance does; of fewer than the second each counts as one of so many."""
CROWDED = 0.2
"""Share of a link's octets from which one-way UDP that came with a breach is its cause."""
LONG_LOOKS = 10
"""So many looks in a row users get a little less since one-way UDP came that is much of what
passes, or who asks for far too much: then it is the cause."""
FAMILIAR_WEIGHT = 0.1
"""Weight of one look in what a source usually sends."""
FEW_KNOWN = 3
"""Fewer users that were seen before do not show whether others take service from them, unless
these are all."""
MOST = 0.5
"""Share of a full link from which what came takes from users though they get but a little less."""
UNHARMED = 0.95
"""Share of what they got, from which users who were always there show that nothing is taken."""
LOST = 0.6
"""What users that get much less than they did lack together, of what one got, at least."""
GROWN = 1.5
"""A source of one-way UDP that sends so many times what it usually did is a stranger again: floods
that grow slowly were there while users were served, too."""
SERVED = 3.0
"""Whom the target served is a stranger again if it sends so many times what it got: clients that
ask over UDP, and are not answered any more, send on."""
UNFAIR, UNFAIR_LOOKS = 1.4, 3
"""Connections that give way to each other get much the same of a full link. Who came and sends so
many times what users do who want more, for so many looks, does not give way: users who get less
than half of what they did. Those who want little get a larger part of it than who wants much, and
less of the link: so it takes three times as much there."""
STAYED = 0.25
"""Share of those who came that is judged alone, having been there for so long."""
CROWD_S = 900.0
"""So long those are none of the users."""
USED, LEAST_REST = 0.9, 0.05
"""Shares of a link: what can be used of it, and what who came is left at least."""
FEW_LOOKS = 2
"""Looks in which a source of one-way UDP has to be there before it is familiar."""
STEADY_LOOKS = 6
"""Much of it has to be much the same for so long: what rises for up to 18 looks never is."""
AFTER_S = 60.0
"""So long after an attack less is taken for a breach, and by who is new nothing for familiar."""
MOST_SOURCES, MOST_REMEMBERED = 4_000, 200
"""Sources that are kept in mind, and users that are remembered beyond a crash, or told of."""


class Look(Struct, frozen=True):
    """What one look at a link shows of the traffic towards a target, and what is known of it."""

    now: float
    seconds: float
    got: dict[str, float]
    """What each user got, in KB/s."""
    octets: float | None
    """Of a packet of users, on average; None: there was none."""
    questions: tuple[int, int] | None
    """Questions of users and answers, where each has one and too few had; None: else."""
    one_way: Mapping[str, float]
    """What each source sent of UDP that nobody answers, and of echoes, in KB/s."""
    asked_kb_s: float
    """What those sent who came and ask for far more than a user does."""
    all_kb_s: float
    """All that the link carried."""
    full: bool
    """Whether little of the link was free."""
    explained: bool
    """Whether it is known why users get less."""
    attacked: bool
    """Whether an attack goes on."""
    recent: bool
    """Whether one was seen within the last minute."""
    wary: bool
    """Whether one is likely: then a little less is a breach."""

    @property
    def least(self) -> float:
        """Share of what is usual that is much less below it."""
        return RESTORED if self.wary else BREACHED


class Goodput(Struct):
    """What the users of one address get, and what is usual for them."""

    usual: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL_LOOKS))
    """What one source got in the last looks while nothing was wrong, in KB/s."""
    lately: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL_LOOKS))
    """What one source got in the last looks, in KB/s."""
    calm: deque[float] = field(default_factory=lambda: deque(maxlen=CALM_LOOKS))
    """What users got in the last looks while nothing was wrong, as share of what is usual."""
    each_kb_s: float = 0.0
    """What one source got in the last look."""
    fell: bool = False
    """Whether that was much less than usual."""
    low: int = 0
    """Looks in a row with much less than usual."""
    octets: float = 1e3
    """Of a packet of its users, on average."""
    users: int = 0
    """How many were seen last."""
    count: float = 0.0
    """How many of their packets were 1 KB/s in the last look."""
    due: float = 0.0
    got: float = 0.0
    """Packets that they were due in those looks, and those they got."""
    questions: bool = False
    """Whether those that they were due are their questions."""
    fallen: float = 0.0
    """When the first of those was."""
    doubts: int = 0
    """Looks in a row with a little less than usual since much one-way UDP, or who asks for far too
    much, came."""
    suffers: float | None = None
    """Since when its users get much less than usual, in seconds; None: they do not."""
    less: float | None = None
    """Since when they get less in the middle of several looks: one good look is chance."""
    familiar: dict[str, float] = field(default_factory=dict)
    """Sources of what no service answers that users were served beside, with the KB/s of each."""
    swollen: bool = False
    """Whether those together sent far more in the last look."""
    senders: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=STEADY_LOOKS))
    """What such sources sent in each of the last looks, in KB/s: of who has just come nobody knows
    yet what it takes from users."""
    served: dict[str, float] = field(default_factory=dict)
    """Users that were served, with what each got, in KB/s."""
    there: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=LEARNED))
    """What users got in each of the last looks while nothing was wrong, in KB/s."""
    met: dict[str, None] = field(default_factory=dict)
    """Users that were seen before: whom a look shows for the first time may attack from now on."""
    asking: dict[str, float] = field(default_factory=dict)
    """Since when sources ask it for far more than a user does, look after look."""
    askers: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=STEADY_LOOKS))
    """What those of them that came got in each of the last looks while nothing was wrong."""
    overrun: dict[str, float] = field(default_factory=dict)
    """Whose connections gave no way in the last look, with what they sent, in KB/s."""
    crowd: dict[str, float] = field(default_factory=dict)
    """Who came and did not give way to users of a full link, with when that was seen last."""
    unfair: int = 0
    """Looks in a row in which there were such."""
    overruns: int = 0
    """Looks in a row in which connections sent far more than the link carries."""
    thin: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL_LOOKS))
    """What those lacked that got much less, as share of what all got, in the last looks while
    nothing was wrong."""
    short: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Packets that each of those was due in the last look, and those it got."""
    cut: float | None = None
    """Since when that is a larger share than ever, in seconds: a link that they share is full."""
    gaps: list[float] = field(default_factory=list)
    """Those shares, since then."""

    @property
    def usual_kb_s(self) -> float:
        """What one source usually gets."""
        return median(self.usual or (0.0,))

    def is_new(self, source: str, kb_s: float) -> bool:
        """Whether a source sends far more than users were served beside, and not by chance.

        Of many who all send more each may do so by chance, and all together do not.
        """
        known = self.familiar.get(source, 0.0)
        return kb_s > (GROWN * known if self.swollen else self._by_chance(known))

    def _by_chance(self, known: float) -> float:
        """Return what of so many KB/s may still be chance in a look, where packets are counted."""
        chance = Z * sqrt(known * self.count) / self.count if self.count else 0.0
        return max(GROWN * known, known + chance)

    def hurt(self, now: float) -> bool:
        """Whether users get much less: all together, or for a while those behind one link."""
        cut = self.cut is not None and now - self.cut >= LOW_S
        return cut or self.suffers is not None

    def came(self, now: float) -> set[str]:
        """Return who came lately and asks for far more than a user does."""
        since = now - AFTER_S
        return {s for s, at in self.asking.items() if at > since and s not in self.served}

    def lacking(self, sent: Mapping[str, float]) -> bool:
        """Whether users who got much less in the last look, and send on, in KB/s, still do.

        Who just ends gets less in one look; of who sends hardly anything that is chance.
        """
        there = [(sent[s], kb_s, s) for s, kb_s in self.served.items() if s in sent]
        less = sum(
            s in self.short
            and kb_s < BREACHED * due
            and _is_less(due * self.count, kb_s * self.count)
            for kb_s, due, s in there
        )
        return self.cut is not None and less >= max(1, min(FEW_KNOWN, len(there)))

    def asked_before(self) -> dict[str, float]:
        """Return who asked for far more than a user does while nothing was wrong, with KB/s.

        What was seen in one look alone may have begun in it: that says nothing of how much.
        """
        sent: dict[str, list[float]] = {}
        for look in self.askers:
            for source, kb_s in look.items():
                sent.setdefault(source, []).append(kb_s)
        return {s: median(of) if len(of) >= FEW_LOOKS else 0.0 for s, of in sent.items()}

    def overrunning(
        self, now: float, sent: Mapping[str, float], stayed: Container[str], link_kb_s: float
    ) -> dict[str, float]:
        """Return whose connections send far more than the link carries and give no way, in KB/s.

        That takes no knowledge of users: who gives way to a full link sends little more than fits.

        Args:
            now: time in seconds.
            sent: what the connections of each source send, in KB/s.
            stayed: who was there ``UNFAIR_LOOKS`` ago: who came since had no time to give way.
            link_kb_s: bandwidth of the link.

        """
        steady = {s: kb_s for s, kb_s in sent.items() if s in stayed}
        over = sum(steady.values()) > UNFAIR * link_kb_s
        self.overruns = self.overruns + 1 if over else 0
        if self.overruns < UNFAIR_LOOKS:
            return {}
        least_kb_s = UNFAIR * link_kb_s / len(sent)  # more than an equal share: some send that
        found = {s: kb_s for s, kb_s in steady.items() if kb_s > least_kb_s}
        if any(s in self.served for s in found):  # they were there before its users were known
            self.served = {s: kb_s for s, kb_s in self.served.items() if s not in found}
            for kept in self.usual, self.lately, self.calm, self.there:
                kept.clear()
        self.exclude(found, now)
        return found

    def crowding(
        self,
        now: float,
        sent: Mapping[str, float],
        present: Container[str],
        stayed: Container[str],
        link_kb_s: float,
    ) -> tuple[list[str], float]:
        """Return who came and crowds users out of a full link, and the KB/s that these leave.

        Args:
            now: time in seconds.
            sent: what each source sends, in KB/s.
            present: who was there lately.
            stayed: who was there ``UNFAIR_LOOKS`` ago.
            link_kb_s: bandwidth of the link.

        """
        came = {
            s: kb_s
            for s, kb_s in sent.items()
            if s in self.crowd or kb_s > SERVED * self.served.get(s, 0.0)
        }
        users = [s for s in self.served if s in present and s not in came]
        wanted, send = (sum(of.get(s, 0.0) for s in users) for of in (self.served, sent))
        judged = [kb_s for s, kb_s in came.items() if s in stayed]
        if len(judged) < STAYED * len(came):
            judged = list(came.values())
        times = UNFAIR if send < wanted / 2 else 3 * UNFAIR
        unfair = sum(judged) * len(users) > times * send * len(judged) and send < RESTORED * wanted
        much = sum(came.values()) >= CROWDED * link_kb_s
        self.unfair = self.unfair + 1 if unfair and much else 0
        if self.unfair < UNFAIR_LOOKS:
            return [], 0.0
        self.exclude(came, now)
        return list(came), max(USED * link_kb_s - wanted, LEAST_REST * link_kb_s)

    def exclude(self, sources: Iterable[str], now: float) -> None:
        """Take sources for none of the users for a while; the eldest come first."""
        for source in sources:
            self.crowd.pop(source, None)
            self.crowd[source] = now
        while len(self.crowd) > MOST_SOURCES:
            del self.crowd[next(iter(self.crowd))]

    def see(self, look: Look, resigned_s: float) -> None:
        """Compare what users get with what is usual; note since when it is much less.

        Args:
            look: what was seen.
            resigned_s: time after which what some users lack is usual, in seconds.

        """
        usual_kb_s, those = self.usual_kb_s, self._those(look)
        if look.octets is not None:
            self.octets, self.users = look.octets, len(those)
        self.count = 1e3 * look.seconds / self.octets
        known = {s: self.familiar[s] for s in look.one_way if s in self.familiar}
        now = sum(look.one_way[s] for s in known)
        self.swollen = now > self._by_chance(sum(known.values()))
        self.each_kb_s = sum(those.values()) / max(1, len(those))
        kept = {s: kb_s / self.served[s] for s, kb_s in those.items() if self.served.get(s)}
        # Who comes or goes changes the mean, and takes nothing from those who stay.
        share = self.each_kb_s / usual_kb_s if usual_kb_s else inf
        few = min(FEW_KNOWN, max(1, len(self.there[-1]))) if self.there else FEW_KNOWN
        share = max(share, median(kept.values())) if len(kept) >= few else share
        self.fell = share < look.least
        due_kb_s, got_kb_s = usual_kb_s * self.users, sum(those.values())
        self.questions = look.questions is not None
        due, got = look.questions or (due_kb_s * self.count, got_kb_s * self.count)
        self.due, self.got = self.due + due, self.got + got
        came = self._came(look)
        much = came >= CROWDED
        gone = self._vanished(look) if much else ()
        self._part(look, kept | dict.fromkeys(gone, 0.0), resigned_s, much=much)
        # Less than they did, or than they ask for where each question has its answer.
        least = UNHARMED if look.full and came >= MOST else RESTORED
        less = self.each_kb_s < least * usual_kb_s and self._of_the_same(those) < UNHARMED
        doubt = much and (self.questions or less)
        self.doubts = self.doubts + 1 if doubt else 0
        self.low = self.low + 1 if share < look.least or self.doubts >= LONG_LOOKS else 0
        if not (self.low or self.doubts):
            self.due = self.got = 0.0
        if self.suffers is None and not look.attacked:
            self.calm.append(share)
        self.fallen = look.now if self.low == 1 else self.fallen
        self.lately.append(self.each_kb_s)
        if self.suffers is None and self._is_breach(look.now, look.least):
            self.suffers = look.now
            self.calm = deque(list(self.calm)[: -self.low], CALM_LOOKS)
            self.less = self.less or look.now
        elif self.suffers is None and median(self.lately) >= RESTORED * usual_kb_s:
            self.less = None

    def most(self) -> tuple[tuple[str, float], ...]:
        """Return its users, of many those that get most, with how much, in KB/s."""
        return tuple(nlargest(MOST_REMEMBERED, self.served.items(), key=itemgetter(1)))

    def recall(self, usual: Iterable[float], served: Iterable[tuple[str, float]]) -> None:
        """Go on with what an earlier life of the agent, or another agent, knew, in KB/s."""
        self.usual = deque(usual, USUAL_LOOKS)
        self.served = dict(islice(served, MOST_REMEMBERED))
        self.met = dict.fromkeys(self.served)

    def resign(self) -> None:
        """Take what users got lately for usual."""
        self.usual = deque(self.lately, USUAL_LOOKS)

    def restored(self) -> bool:
        """Whether users who got much less get again what is usual; then they suffer no more."""
        if self.suffers is None or self.each_kb_s < RESTORED * self.usual_kb_s:
            return False
        self.suffers = None
        return True

    def learn(self, look: Look, clients: Container[str]) -> None:
        """Keep in mind what is usual, if nothing is wrong.

        Args:
            look: what was seen.
            clients: users that ask over UDP, and are answered.

        """
        well, begun = self.suffers is None and not self.doubts, bool(self.usual)
        if well and not look.attacked and not self.low:
            self.usual.append(self.each_kb_s)
        if well and self.cut is None and not self.fell and not look.explained:
            # Who comes to watch in the middle of an attack takes nothing for familiar yet.
            unsure = look.recent and len(self.usual) < LEARNED
            _learn(self.familiar, {} if unsure or look.full else self._stays(look))
            for source in self.asking:  # who asks for ever more is a stranger again
                if look.got.get(source, 0.0) > GROWN * self.served.get(source, inf):
                    del self.served[source]
            came = {s: look.got[s] for s in self.came(look.now) if s in look.got}
            self.askers.append({} if unsure else came)
            stay = {s: at for s, at in came.items() if all(s in each for each in self.askers)}
            if len(self.askers) == STEADY_LOOKS and self._steady(stay, self.askers):
                _learn(self.served, stay)  # they did no harm
            users = self._those(look)
            _learn(self.served, {s: users[s] for s in users if not begun or s in self.met})
            self.there.append({s: kb_s for s, kb_s in users.items() if s in self.served})
            self.met |= dict.fromkeys(users)
            while len(self.met) > MOST_SOURCES:
                del self.met[next(iter(self.met))]
        else:  # who comes during an attack, and is answered, is none of its strangers
            _learn(self.served, {s: kb_s for s, kb_s in look.got.items() if s in clients})
        self.senders.append(look.one_way)
        long = look.now - CROWD_S
        while self.crowd and next(iter(self.crowd.values())) < long:
            del self.crowd[next(iter(self.crowd))]

    def _stays(self, look: Look) -> dict[str, float]:
        """Return what one-way UDP has been there for some looks, or for long if that is much.

        Much that grows was there while users were served, too, until it filled a link.
        """
        last = list(self.senders)[-FEW_LOOKS:]
        there = {s: at for s, at in look.one_way.items() if all(s in each for each in last)}
        came = {s: kb_s for s, kb_s in there.items() if self.is_new(s, kb_s)}
        few = sum(came.values()) < CROWDED * look.all_kb_s
        if few or self._steady(came, self.senders):
            return there
        return {s: kb_s for s, kb_s in there.items() if s not in came}

    @staticmethod
    def _steady(sources: Mapping[str, float], before: Iterable[Mapping[str, float]]) -> bool:
        """Whether sources together do not much more than in the looks before."""
        now, then = sum(sources.values()), (sum(e.get(s, 0.0) for s in sources) for e in before)
        return now <= GROWN * min(then, default=now)

    def _those(self, look: Look) -> dict[str, float]:
        """Return the users but for who came lately and asks for far more, or gives no way.

        Such a source would hide that users get less.
        """
        came = self.came(look.now).union(self.crowd)
        return {s: kb_s for s, kb_s in look.got.items() if s not in came} or look.got

    def _came(self, look: Look) -> float:
        """Return which share of what passes is new: what no service answers, and requests."""
        came = sum(kb_s for source, kb_s in look.one_way.items() if self.is_new(source, kb_s))
        return (came + look.asked_kb_s) / look.all_kb_s if look.all_kb_s else 0.0

    def _of_the_same(self, those: Mapping[str, float]) -> float:
        """Return what users who were always there get, as share of what they got; 0: nobody was.

        Others come and go, which changes the mean.
        """
        same = [s for s in those if all(s in each for each in self.there)] if self.there else []
        got = sum(each[s] for each in self.there for s in same) / max(1, len(self.there))
        return sum(those[s] for s in same) / got if got else 0.0

    def _vanished(self, look: Look) -> list[str]:
        """Return the users that were always there, and are not: cut off, if not just gone."""
        if len(self.there) < (FEW_LOOKS if look.attacked else LEARNED):
            return []
        first, *others = self.there
        return [s for s in first if s not in look.got and all(s in each for each in others)]

    def _is_breach(self, now: float, least: float) -> bool:
        """Whether as many looks in a row as were less than ``least`` are no chance.

        An attack may begin before it is known well what is usual: then more looks have to agree.
        """
        enough = IN_A_ROW if len(self.usual) >= LEARNED else LEARNED
        if self.low < enough or now - self.fallen < LOW_S:
            return False
        before = list(self.calm)[: -self.low]
        often = sum(share < least for share in before) / max(len(before), FEW_CALM)
        if often**self.low > CHANCE and self.low < LONG_LOOKS:
            return False
        rests_on = inf if self.questions else sum(self.usual) * self.users * self.count
        return _is_less(self.due, self.got, rests_on)

    def _part(
        self, look: Look, kept: Mapping[str, float], resigned_s: float, *, much: bool
    ) -> None:
        """Notice that some users get much less, as others go on: fewer than make a breach.

        Where ``much`` has come little needs to be known of what is usual, and that is not.
        """
        due = {s: self.served[s] * self.count for s, share in kept.items() if share < BREACHED}
        before, self.short = self.short, {s: (each, each * kept[s]) for s, each in due.items()}
        lost = 0.0
        for source, (each, got) in self.short.items():  # an attack makes looks half as long
            more, too = before.get(source, (0.0, 0.0))
            lost += 1 - kept[source] if _is_less(each + more, got + too) else 0
        share = lost / max(len(kept), 1)
        cut = lost >= LOST and (much or len(self.thin) >= LEARNED)
        # Of many looks one is the worst by chance; as far again beyond the usual ones none is.
        known = self.thin or (0.0,)
        cut = cut and share > 2 * max(known) - median(known)
        self.cut = (look.now if self.cut is None else self.cut) if cut else None
        if self.cut is None or look.now - self.cut > resigned_s:
            self.cut = None
            if self.suffers is None and not (look.explained or much):
                # What soon ends was chance, as well, if it was no attack.
                chance = len(self.gaps) < LEARNED and not look.recent
                self.thin.extend([*self.gaps, share] if chance else [share])
            self.gaps = []
        else:
            self.gaps.append(share)


def _is_less(due: float, got: float, rests_on: float = inf) -> bool:
    """Whether packets are certainly fewer than are due: questions and answers vary, both.

    So do the packets that what is due ``rests_on``.
    """
    return due - got > Z * sqrt(2 * due * (1 + due / max(1.0, rests_on)))


def _learn(usual: dict[str, float], seen: Mapping[str, float]) -> None:
    """Keep in mind what each source sends, or gets, in KB/s; the eldest are forgotten first."""
    for source, kb_s in seen.items():
        if source in usual or kb_s > 0:
            known = usual.get(source, kb_s)
            usual[source] = known + (kb_s - known) * FAMILIAR_WEIGHT
    while len(usual) > MOST_SOURCES:
        del usual[next(iter(usual))]
