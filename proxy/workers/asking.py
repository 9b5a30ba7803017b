"""Where keys are asked for, a worker asks the main process before a request goes to an engine.

The client may leave meanwhile: what was reserved is given back once the answer comes. The main process may
be gone or hang: then there will be no answer, and the client is told so.
"""

from __future__ import annotations

from accounting.access.keys import Key, digest
from proxy.access.holder import Holder, presented_key
from proxy.ask import Ask
from proxy.errors import ApiError, BackendTimeout
from proxy.exchange import Exchange
from proxy.media.ask import of_fields
from proxy.relay import Relay
from proxy.retry import Fault
from proxy.sending import HELD_BYTES
from proxy.wire.server import Connection
from proxy.wire.turn import Request
from proxy.workers.client import RemoteAccountant
from proxy.workers.entered import Entered
from proxy.workers.messages import Admitted, Enter, Knock, Known, Refused
from proxy.workers.refusing import error_of


class Door:
    """Asks for requests, and hands out the answers. `exchange` is what the relay makes them with."""

    def __init__(self, accountant: RemoteAccountant) -> None:
        self._accountant = accountant
        self._asked = 0
        self._waiting: dict[int, AskingExchange] = {}

    def exchange(self, relay: Relay, connection: Connection, request: Request) -> Exchange:
        return AskingExchange(self, relay, connection, request)

    def knock(self, exchange: AskingExchange, hashed: str | None) -> None:
        self._accountant.ask(Knock(number=self._number(exchange), digest=hashed))

    def enter(self, exchange: AskingExchange, hashed: str | None, ask: Ask, body_bytes: int) -> None:
        enter = Enter(
            number=self._number(exchange),
            digest=hashed,
            path=ask.path,
            model=ask.model,
            accounted=ask.accounted,
            sequences=ask.sequences,
            max_tokens=ask.max_tokens,
            media=ask.media,
            body_bytes=body_bytes,
            tunnel=exchange.upgrades,
        )
        self._accountant.ask(enter)

    def _number(self, exchange: AskingExchange) -> int:
        self._asked += 1
        self._waiting[self._asked] = exchange
        return self._asked

    def heard(self, answer: Known | Admitted | Refused) -> None:
        exchange = self._waiting.pop(answer.number)
        match answer:
            case Known():
                exchange.known(answer.key)
            case Admitted():
                exchange.admitted(answer.key, Entered(self._accountant, answer.number, answer.limits))
            case Refused():
                exchange.refused(answer.key, error_of(answer))


class AskingExchange(Exchange):
    """One request that is let in, or not, by the main process; all else is as ever."""

    __slots__ = ("_door", "_hashed", "_waits")

    def __init__(self, door: Door, relay: Relay, connection: Connection, request: Request) -> None:
        super().__init__(relay, connection, request)
        self._door = door
        self._hashed: str | None = None
        self._waits = False
        """For an answer of the main process."""

    # the client's side

    def begin(self) -> None:
        """Where much of a body is to come, only once the key is known to be good."""
        request = self.request
        presented = presented_key(request.headers)
        self._hashed = None if presented is None else digest(presented)
        size = request.length or self._body_bytes
        if self._no_main():
            return
        if request.chunked or request.expects_continue or size > min(HELD_BYTES, self.relay.max_body_bytes):
            self._wait()
            self._door.knock(self, self._hashed)
        else:
            super().begin()

    def data(self, data: bytes) -> None:
        if self._waits:
            self._read_on(data)
        super().data(data)

    def stop(self, why: str) -> None:
        if self._waits:
            self._over = True
        else:
            super().stop(why)

    def look(self, now_s: float) -> None:
        """Whoever waits to be let in waits as long as for an engine, and no longer."""
        timeouts = self.relay.timeouts
        most_s = min(timeouts.total_s or timeouts.first_byte_s, timeouts.first_byte_s)
        if not self._waits or self._over:
            super().look(now_s)
        elif now_s - self._began_s > most_s:
            self._turn_away(BackendTimeout(f"joulegate's main process did not answer within {most_s:g} s"))

    def fail(self, error: ApiError, fault: Fault | None = None) -> None:
        if self._waits and not self._over:
            self._turn_away(error)
        else:
            super().fail(error, fault)

    # asking

    def _understand(self) -> Ask:
        return super()._understand() if self.ask is None else self.ask

    def _dispatch(self) -> None:
        if self._waits or self._no_main():  # more of the body came, or its end
            return
        if self.request.is_preflight:
            super()._dispatch()
            return
        ask = self._understand()
        self._wait()
        self._door.enter(self, self._hashed, ask, self.account.body_bytes)

    def _no_main(self) -> bool:
        """Whether nobody can be asked any more; the client is told."""
        why = self.relay.ended
        if why is not None:
            self._turn_away(why)
        return why is not None

    def _wait(self) -> None:
        self._waits = True
        if not self.request.complete:
            self.connection.hold()

    # the main process' answers

    def known(self, key: Key | None) -> None:
        if self._answered(key):
            super().begin()

    def admitted(self, key: Key | None, entered: Entered) -> None:
        if not self._answered(key):
            entered.end(None, None)
            return
        account, ask = self.account, self.account.ask
        account.grant = entered
        if ask.form is not None and self.request.complete:
            account.is_for(of_fields(ask.path, ask.form.fields))  # its end came meanwhile
        super()._dispatch()

    def refused(self, key: Key | None, error: ApiError) -> None:
        if self._answered(key):
            self._turn_away(error)

    def _answered(self, key: Key | None) -> bool:
        """Whether somebody still waits for the answer."""
        self._waits = False
        if self._over:
            return False
        self.connection.release()
        if key is not None or self.holder is None:
            self.holder = Holder(key)
            if self.ask is not None:
                self.holder.mark(self.ask)
        return True
