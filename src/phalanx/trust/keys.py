"""Keys for the agents' overlay: one secret an epoch, handed out by way of the ledger.

Everything on a ledger can be read by every node. So what stands there is a ciphertext for each
agent alone: an ephemeral X25519 key, HKDF-SHA256 (RFC 5869) and ChaCha20-Poly1305 (RFC 8439) bind
it to the agent and the epoch. An epoch ends when an agent leaves or is expelled; those that stay
get the next secret, and the one that is out does not.

The secret of two agents follows from the epoch's, so that a member with the role of an auditor
can verify and trace what the agents say to each other (Gonzalez et al., *Securing Multi-Agent
Systems*, III.C), and nobody who is no member can.

Source: Gonzalez et al., *Deployment of Genuine Multi-Agent Pipelines*, 3.B, steps 13 and 14.
"""

from __future__ import annotations

from functools import partial
from hmac import digest as keyed

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, perceives
from phalanx.domain.actions import Failed, Outcome
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.trust import Submit, UseKey
from phalanx.ledger import RecordedEntry
from phalanx.ledger.entries import Attested, KeyHandedOut
from phalanx.trust.attestation import CHAIN, TURN_S, Attestation, turn_order
from phalanx.trust.register import TrustRegister, TrustStanding

SECRET_OCTETS = 32
_PUBLIC_OCTETS = 32
_NONCE = bytes(12)
"""Each key seals one text: it follows from an ephemeral key of its own."""


class SealedKeyError(PhalanxError):
    """A ciphertext is not for this agent and epoch, or was changed; the text is one line."""


def exchange_of(key: X25519PrivateKey) -> str:
    """Return the public key to which an agent's secrets are sealed, in hexadecimal."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def seal_key(secret: bytes, receiver: str, agent: AgentId, epoch: int, fresh: bytes) -> bytes:
    """Return ``secret`` so that the owner of ``receiver`` alone can open it.

    Args:
        secret: 32 octets.
        receiver: X25519 public key, in hexadecimal.
        agent: whom it is for.
        epoch: that it belongs to.
        fresh: 32 octets that are used for nothing else: the ephemeral private key.

    Raises:
        ValueError: if ``receiver`` is no public key.

    """
    ephemeral = X25519PrivateKey.from_private_bytes(fresh)
    public = ephemeral.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    there = X25519PublicKey.from_public_bytes(bytes.fromhex(receiver))
    box = _box(ephemeral.exchange(there), public, agent, epoch)
    return public + box.encrypt(_NONCE, secret, None)


def open_key(ciphertext: bytes, key: X25519PrivateKey, agent: AgentId, epoch: int) -> bytes:
    """Return the secret that was sealed for ``agent``.

    Raises:
        SealedKeyError: if it was not, or for another epoch, or was changed.

    """
    public = ciphertext[:_PUBLIC_OCTETS]
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        secret = _box(shared, public, agent, epoch).decrypt(
            _NONCE, ciphertext[_PUBLIC_OCTETS:], None
        )
    except (ValueError, InvalidTag):
        raise SealedKeyError(f"the key of epoch {epoch} cannot be opened by {agent}") from None
    if len(secret) != SECRET_OCTETS:
        raise SealedKeyError(f"the key of epoch {epoch} has {len(secret)} octets")
    return secret


def pair_secret(secret: bytes, a: AgentId, b: AgentId) -> bytes:
    """Return what two agents share under an epoch's ``secret``, the same in either order."""
    first, second = sorted((a, b))
    return _derived(secret, b"", f"pair {len(first)} {first} {second}".encode())


def _box(shared: bytes, public: bytes, agent: AgentId, epoch: int) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_derived(shared, public, f"key {epoch} {agent}".encode()))


def _derived(secret: bytes, salt: bytes, about: bytes) -> bytes:
    return HKDF(SHA256(), SECRET_OCTETS, salt, b"phalanx " + about).derive(secret)


class KeyKeeping(Capability):
    """Hands out the secret of an epoch when it is this agent's turn, and uses its own."""

    name = "key-keeping"

    def __init__(self) -> None:
        self.exchange: X25519PrivateKey | None = None
        """Set before the agent lives; None: it gets no keys."""
        self.secret: bytes | None = None
        self.epoch = 0
        """Of the secret; 0: there is none yet."""
        self._handed: set[tuple[int, AgentId]] = set()
        self._alarm = 0

    @perceives(RecordedEntry)
    def recorded(self, me: Agent, recorded: RecordedEntry) -> None:
        """Use a key that was handed out to this agent; see whose turn it is to hand out."""
        entry = recorded.entry
        if isinstance(entry, KeyHandedOut) and entry.agent == me.name:
            me.call_at(me.now, partial(self._take, me, entry))
        if not isinstance(entry, Attested) or entry.result.round == CHAIN:
            self._plan_turn(me)

    @perceives(TrustRegister)
    def resumed(self, me: Agent, register: TrustRegister) -> None:
        """Use the key that was handed out before; see whose turn it is to hand out."""
        if (entry := register.holders.get(me.name)) is not None:
            me.call_at(me.now, partial(self._take, me, entry))
        self._plan_turn(me)

    def _take(self, me: Agent, entry: KeyHandedOut) -> None:
        if self.exchange is None or entry.epoch != me.capability(Attestation).register.epoch:
            return  # it is over already
        try:
            secret = open_key(entry.ciphertext, self.exchange, me.name, entry.epoch)
        except SealedKeyError as error:
            me.record("key.unusable", epoch=entry.epoch, by=entry.by, reason=str(error))
            return
        if (entry.epoch, secret) == (self.epoch, self.secret):
            return
        self.epoch, self.secret = entry.epoch, secret
        me.cause = me.record("key.installed", epoch=entry.epoch, by=entry.by)
        me.perform(UseKey(entry.epoch, secret), lambda _: None)

    def _plan_turn(self, me: Agent) -> None:
        register = me.capability(Attestation).register
        self._alarm += 1
        trusted = register.with_standing(TrustStanding.TRUSTED)
        waiting = [name for name in trusted if name not in register.holders]
        if self.exchange is None or me.name not in trusted or not waiting or me.draining:
            return
        if not register.keeper:
            if register.with_standing(TrustStanding.ENROLLED) and register.round == 0:
                return  # the chain is not through
            place = turn_order(register.seed, register.epoch, trusted).index(me.name)
            due = me.now + place * TURN_S
        elif register.keeper == me.name:
            due = me.now
        else:
            return
        me.call_at(due, partial(self._hand_out, me, self._alarm))

    def _hand_out(self, me: Agent, alarm: int) -> None:
        attestation = me.capability(Attestation)
        register = attestation.register
        if alarm != self._alarm or attestation.terms is None:
            return
        epoch = register.epoch
        if register.keeper == me.name and self.epoch == epoch and self.secret is not None:
            secret = self.secret
        else:
            secret = keyed(attestation.terms.secret, f"epoch {epoch}".encode(), "sha256")
        for name in register.with_standing(TrustStanding.TRUSTED):
            member = register.members[name]
            if name in register.holders or (epoch, name) in self._handed or not member.exchange:
                continue
            self._handed.add((epoch, name))
            fresh = keyed(attestation.terms.secret, f"{epoch} {name}".encode(), "sha256")
            sealed = seal_key(secret, member.exchange, name, epoch, fresh)
            entry = KeyHandedOut(name, epoch, sealed, me.name)
            me.perform(Submit(entry), partial(self._submitted, entry))

    def _submitted(self, entry: KeyHandedOut, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):  # another was first, or the epoch is over
            self._handed.discard((entry.epoch, entry.agent))
