// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAttestation, Keys} from "./Keys.sol";

/// Who is an agent here, who verifies whom, and what the verifiers found.
///
/// A function takes the entry that its event then holds, so that nothing is recorded which the
/// rules did not see. Names are hashed to 20 octets (`idOf`). Numbers that are no integers come in
/// millionths. A refusal is a revert whose reason is one line for a reader.
contract Attestation {
    struct Enrolled {
        string agent;
        address account;
        string role;
        string software;
        bytes32 reference_; // the plain word is reserved
        bytes32 public_key;
    }

    struct AgentRetired {
        string agent;
        string reason;
    }

    struct Planned {
        uint64 period_s;
        uint64 verifiers;
        uint64 misses;
    }

    struct RoundOpened {
        uint64 round;
        bytes32 seed;
    }

    struct Drawn {
        uint64 round;
        string agent;
        bytes32 commitment;
    }

    struct Revealed {
        uint64 round;
        string agent;
        bytes32 share;
    }

    struct Deviation {
        string kind;
        string where;
        string what;
    }

    struct Attested {
        string attester;
        string verifier;
        uint8 tier;
        uint64 round;
        uint64 at_s;
        bytes evidence;
        string root;
        Deviation[] deviations;
        string cause; // event of the verifier's log
    }

    struct Faulted {
        uint64 round;
        string attester;
        string verifier;
        string fault;
    }

    struct Associated {
        string a;
        string b;
        uint64 max_latency_ms;
        uint64 max_loss;
    }

    struct Breached {
        string a;
        string b;
        uint64 latency_ms;
        uint64 loss;
    }

    struct Revoked {
        string agent;
        string reason;
        uint64 epoch;
    }

    struct AuditAnchored {
        string agent;
        string recorder;
        uint64 events;
        bytes32 head;
    }

    event EnrolledEntry(address indexed author, Enrolled entry);
    event AgentRetiredEntry(address indexed author, AgentRetired entry);
    event PlannedEntry(address indexed author, Planned entry);
    event RoundOpenedEntry(address indexed author, RoundOpened entry);
    event DrawnEntry(address indexed author, Drawn entry);
    event RevealedEntry(address indexed author, Revealed entry);
    event AttestedEntry(address indexed author, Attested entry);
    event FaultedEntry(address indexed author, Faulted entry);
    event AssociatedEntry(address indexed author, Associated entry);
    event BreachedEntry(address indexed author, Breached entry);
    event RevokedEntry(address indexed author, Revoked entry);
    event AuditAnchoredEntry(address indexed author, AuditAnchored entry);

    enum State {
        UNKNOWN,
        ENROLLED,
        VERIFIED,
        GONE
    }

    struct Agent {
        address account;
        State state;
        bool isOperator;
        uint8 missed;
        uint64 member; // place in `members`, from 1; 0: in none
    }

    struct Round {
        bytes32 seed;
        uint64 openedAt;
        uint64 verifiers;
    }

    struct Tally {
        uint16 sound;
        uint16 contraindicated;
        uint16 none;
    }

    struct Level {
        uint64 maxLatencyMs;
        uint64 maxLoss;
        bytes20 proposer;
        bool agreed;
    }

    // The order of TrustTier in Python.
    uint8 private constant CONTRAINDICATED = 2;
    uint8 private constant NONE = 3;
    uint256 private constant MILLION = 1_000_000;
    bytes32 private constant OPERATOR = keccak256("operator");

    Keys public immutable keys;
    bytes20 private immutable founder;

    mapping(bytes20 => Agent) public agents;
    mapping(address => bytes20) public agentOf;
    /// Who may be elected: 20 octets of id, 6 of the round in which it was verified (it counts from
    /// the next), 6 of the round after that in which it left (it counts no more; 0: it is here). So
    /// the verifiers of a round are the same from its opening to its end.
    uint256[] public members;

    Planned public plan;
    uint64 public round;
    mapping(uint64 => Round) public rounds;
    bytes20 public lastVerified;
    bytes32 private shares;
    mapping(uint64 => mapping(bytes20 => bytes32)) private commitments;
    mapping(uint64 => mapping(bytes20 => bool)) private shown;
    mapping(bytes32 => uint8) private results; // tier + 1
    mapping(bytes32 => Tally) private tallies;
    mapping(bytes32 => bool) private faults;
    mapping(bytes32 => Level) private levels;
    mapping(bytes32 => uint64) private anchored; // seals, by agent and recorder

    constructor(string memory name) {
        keys = new Keys(IAttestation(address(this)));
        bytes20 id = idOf(name);
        founder = id;
        lastVerified = id;
        agents[id] = Agent(msg.sender, State.VERIFIED, true, 0, 0);
        agentOf[msg.sender] = id;
        emit EnrolledEntry(msg.sender, Enrolled(name, msg.sender, "operator", "", 0, 0));
    }

    // -- access ------------------------------------------------------------------------------

    modifier onlyOperator() {
        require(operates(msg.sender), "only an operator may do this");
        _;
    }

    function idOf(string memory name) public pure returns (bytes20) {
        return bytes20(keccak256(bytes(name)));
    }

    function operates(address account) public view returns (bool) {
        Agent storage agent = agents[agentOf[account]];
        return agent.isOperator && agent.account == account && agent.state == State.VERIFIED;
    }

    /// Whether an account is that of an agent which was verified and is still here.
    function active(address account) public view returns (bool) {
        Agent storage agent = agents[agentOf[account]];
        return agent.account == account && agent.state == State.VERIFIED;
    }

    function verified(bytes20 id) public view returns (bool) {
        return agents[id].state == State.VERIFIED;
    }

    /// Return the id of `name`, if it is the sender's, who must be an agent that was verified.
    function own(string calldata name) private view returns (bytes20 id) {
        id = idOf(name);
        require(agentOf[msg.sender] != 0, "the account is not registered");
        require(agentOf[msg.sender] == id, "the account is another agent's");
        require(active(msg.sender), "the agent is not verified, or has left");
    }

    // -- enrolment -----------------------------------------------------------------------------

    function enrolled(Enrolled calldata entry) external onlyOperator {
        bytes20 id = idOf(entry.agent);
        Agent storage agent = agents[id];
        require(bytes(entry.agent).length != 0, "an agent needs a name");
        require(entry.account != address(0), "an agent needs an account");
        require(
            agent.state == State.UNKNOWN || agent.state == State.GONE,
            "the agent is enrolled already"
        );
        bytes20 owner = agentOf[entry.account];
        require(owner == 0 || owner == id, "the account is another agent's");
        if (agent.account != address(0)) delete agentOf[agent.account];
        agentOf[entry.account] = id;
        bool isOperator = keccak256(bytes(entry.role)) == OPERATOR;
        agents[id] =
            Agent(entry.account, isOperator ? State.VERIFIED : State.ENROLLED, isOperator, 0, 0);
        emit EnrolledEntry(msg.sender, entry);
    }

    function agentRetired(AgentRetired calldata entry) external {
        bytes20 id = idOf(entry.agent);
        require(
            operates(msg.sender) || (agentOf[msg.sender] == id && agents[id].account == msg.sender),
            "only an operator or the agent itself may do this"
        );
        remove(id);
        emit AgentRetiredEntry(msg.sender, entry);
    }

    function revoked(Revoked calldata entry) external onlyOperator {
        revoke(entry.agent, entry.reason);
    }

    function revoke(string calldata name, string memory reason) private {
        uint64 epoch = remove(idOf(name));
        emit RevokedEntry(msg.sender, Revoked(name, reason, epoch));
    }

    /// Take an agent out, and open the next epoch of the keys; return that.
    function remove(bytes20 id) private returns (uint64) {
        Agent storage agent = agents[id];
        require(
            agent.state == State.ENROLLED || agent.state == State.VERIFIED,
            "the agent is not enrolled"
        );
        require(id != founder, "the founder of the ledger cannot be removed");
        agent.state = State.GONE;
        if (agent.member != 0) members[agent.member - 1] |= round + 1;
        agent.member = 0;
        if (lastVerified == id) lastVerified = founder;
        return keys.advance();
    }

    // -- rounds --------------------------------------------------------------------------------

    function planned(Planned calldata entry) external onlyOperator {
        require(entry.period_s >= MILLION, "a period is a second or more");
        require(
            entry.verifiers > 0 && entry.verifiers <= 1000, "an attester needs 1 to 1000 verifiers"
        );
        require(entry.misses <= 255, "255 misses are the most");
        plan = entry;
        if (rounds[round].openedAt == 0) rounds[round].openedAt = uint64(block.timestamp);
        emit PlannedEntry(msg.sender, entry);
    }

    /// Open the next round. Its seed hangs on the last one, on what agents drew and revealed, and
    /// on what whoever makes the block cannot choose freely.
    function roundOpened(RoundOpened calldata entry) external {
        require(active(msg.sender), "only a verified agent may do this");
        require(plan.period_s != 0, "there is no plan");
        require(entry.round == round + 1, "it is not the next round");
        Round storage last = rounds[round];
        require(
            block.timestamp >= last.openedAt + plan.period_s / MILLION, "the round is not over"
        );
        bytes32 seed = keccak256(
            abi.encodePacked(
                last.seed, shares, blockhash(block.number - 1), block.prevrandao, entry.round
            )
        );
        prune();
        round = entry.round;
        rounds[round] = Round(seed, uint64(block.timestamp), plan.verifiers);
        shares = 0;
        emit RoundOpenedEntry(msg.sender, RoundOpened(round, seed));
    }

    /// Forget members that left before the round which ends now.
    function prune() private {
        uint256 count = members.length;
        for (uint256 n = count; n > 0; n--) {
            uint64 left = uint48(members[n - 1]);
            if (left != 0 && left <= round) {
                uint256 moved = members[count - 1];
                members[n - 1] = moved;
                Agent storage agent = agents[bytes20(uint160(moved >> 96))];
                if (agent.member == count) agent.member = uint64(n);
                members.pop();
                count--;
            }
        }
    }

    /// Commit to a share of the next round's seed, in the first half of a round.
    function drawn(Drawn calldata entry) external {
        bytes20 id = own(entry.agent);
        require(entry.round == round + 1, "it is not the next round");
        require(!pastHalf(), "the time to commit is over");
        require(commitments[entry.round][id] == 0, "the agent has committed already");
        require(entry.commitment != 0, "a commitment is not zero");
        commitments[entry.round][id] = entry.commitment;
        emit DrawnEntry(msg.sender, entry);
    }

    /// Reveal the share, in the second half: keccak256(id, round, share) is the commitment.
    function revealed(Revealed calldata entry) external {
        bytes20 id = own(entry.agent);
        require(entry.round == round + 1, "it is not the next round");
        require(pastHalf(), "it is too early to reveal");
        require(!shown[entry.round][id], "the agent has revealed already");
        require(
            commitments[entry.round][id]
                == keccak256(abi.encodePacked(id, entry.round, entry.share)),
            "the share is not what the agent committed to"
        );
        shown[entry.round][id] = true;
        shares = keccak256(abi.encodePacked(shares, id, entry.share));
        emit RevealedEntry(msg.sender, entry);
    }

    function pastHalf() private view returns (bool) {
        require(plan.period_s != 0, "there is no plan");
        return block.timestamp >= rounds[round].openedAt + plan.period_s / (2 * MILLION);
    }

    // -- verification ----------------------------------------------------------------------------

    /// Whether a verifier is among those elected for an attester: fewer members than the plan has
    /// verifiers have a lower keccak256(seed, attester, member) than its own.
    function elected(uint64 number, bytes20 attester, bytes20 verifier) public view returns (bool) {
        if (verifier == attester) return false;
        bytes32 seed = rounds[number].seed;
        bytes32 mark = keccak256(abi.encodePacked(seed, attester, verifier));
        uint256 lower = 0;
        uint256 present = 0;
        for (uint256 n; n < members.length; n++) {
            uint256 word = members[n];
            if (!counts(word, number)) continue;
            bytes20 id = bytes20(uint160(word >> 96));
            if (id == verifier || id == attester) present++;
            else if (keccak256(abi.encodePacked(seed, attester, id)) < mark) lower++;
        }
        return present == 2 && lower < rounds[number].verifiers;
    }

    /// Whether a word of `members` stands for one that was verified when a round opened.
    function counts(uint256 word, uint64 number) private pure returns (bool) {
        uint256 left = uint48(word);
        return uint48(word >> 48) < number && (left == 0 || left > number);
    }

    function attested(Attested calldata entry) external {
        bytes20 verifier = own(entry.verifier);
        bytes20 attester = idOf(entry.attester);
        require(attester != verifier, "nobody verifies itself");
        require(entry.tier <= NONE, "there is no such tier");
        Agent storage agent = agents[attester];
        require(
            agent.state == State.ENROLLED || agent.state == State.VERIFIED,
            "the attester is not enrolled"
        );
        if (entry.round == 0) {
            emit AttestedEntry(msg.sender, entry);
            initial(agent, attester, verifier, entry);
            return;
        }
        require(entry.round == round, "the round is not open");
        require(elected(round, attester, verifier), "the verifier was not elected");
        bytes32 key = keccak256(abi.encodePacked(round, attester, verifier));
        uint8 before = results[key];
        // A verifier may find something later in the round; it cannot take that back.
        require(
            before == 0 || (entry.tier == CONTRAINDICATED && before != CONTRAINDICATED + 1),
            "the verifier has given its result already"
        );
        results[key] = entry.tier + 1;
        if (before != 0 && before != NONE + 1) {
            tallies[keccak256(abi.encodePacked(round, attester))].sound--;
        }
        emit AttestedEntry(msg.sender, entry);
        tallyUp(agent, attester, entry);
    }

    /// The chain of trust: the agent that was verified last verifies the next; an operator the first.
    function initial(Agent storage agent, bytes20 attester, bytes20 verifier, Attested calldata entry)
        private
    {
        require(agent.state == State.ENROLLED, "the agent is verified already");
        require(
            verifier == lastVerified || operates(msg.sender),
            "it is another agent's turn to verify"
        );
        require(idOf(entry.root) == lastVerified, "the root of trust is the agent verified last");
        // The root's word alone expels nobody; an operator may remove an agent anyway.
        if (entry.tier == CONTRAINDICATED && operates(msg.sender)) {
            revoke(entry.attester, "contraindicated by an operator");
        }
        if (entry.tier != 0) return;
        agent.state = State.VERIFIED;
        lastVerified = attester;
        members.push(
            (uint256(uint160(attester)) << 96) | (uint256(round) << 48)
        );
        agent.member = uint64(members.length);
    }

    /// One verifier alone never expels: it takes a majority of the elected, and two at least.
    function tallyUp(Agent storage agent, bytes20 attester, Attested calldata entry) private {
        Tally storage tally = tallies[keccak256(abi.encodePacked(round, attester))];
        uint16 need = needed(round);
        if (entry.tier == CONTRAINDICATED) {
            if (++tally.contraindicated == need) {
                revoke(entry.attester, "contraindicated by a majority of its verifiers");
            }
        } else if (entry.tier == NONE) {
            if (++tally.none == need && plan.misses != 0 && ++agent.missed >= plan.misses) {
                revoke(entry.attester, "gave a majority of its verifiers no evidence");
            }
        } else if (++tally.sound == need) {
            agent.missed = 0;
        }
    }

    function needed(uint64 number) private view returns (uint16) {
        uint64 half = rounds[number].verifiers / 2 + 1;
        return uint16(half < 2 ? 2 : half);
    }

    /// Record what a verifier did wrong in the last round. Any agent may say it; the rules check it.
    function faulted(Faulted calldata entry) external {
        require(active(msg.sender), "only a verified agent may do this");
        require(entry.round != 0 && entry.round + 1 == round, "only of the round before this one");
        bytes20 attester = idOf(entry.attester);
        bytes20 verifier = idOf(entry.verifier);
        bytes32 kind = keccak256(bytes(entry.fault));
        bytes32 key = keccak256(abi.encodePacked(entry.round, attester, verifier));
        require(!faults[key], "the fault is recorded already");
        if (kind == keccak256("withheld")) {
            require(
                bytes(entry.attester).length == 0 && commitments[entry.round][verifier] != 0
                    && !shown[entry.round][verifier],
                "the agent withheld nothing"
            );
        } else {
            require(elected(entry.round, attester, verifier), "the verifier was not elected");
            uint8 tier = results[key];
            if (kind == keccak256("silent")) {
                // Of an attester that left, nothing more was to be said.
                require(tier == 0 && verified(attester), "the verifier was not silent");
            } else {
                require(kind == keccak256("contradicts"), "there is no such fault");
                require(contradicts(entry.round, attester, tier), "the verifier did not contradict");
            }
        }
        faults[key] = true;
        emit FaultedEntry(msg.sender, entry);
    }

    function contradicts(uint64 number, bytes20 attester, uint8 tier) private view returns (bool) {
        if (tier == 0) return false;
        Tally storage tally = tallies[keccak256(abi.encodePacked(number, attester))];
        uint16 need = needed(number);
        if (tier - 1 == CONTRAINDICATED) return tally.sound >= need || tally.none >= need;
        if (tier - 1 == NONE) return tally.sound >= need || tally.contraindicated >= need;
        return tally.contraindicated >= need || tally.none >= need;
    }

    // -- associations ----------------------------------------------------------------------------

    /// Agree on a service level between two agents: it holds once both have said the same.
    function associated(Associated calldata entry) external {
        (bytes20 a, bytes20 b, bytes20 sender) = pair(entry.a, entry.b);
        require(verified(a) && verified(b), "both agents must be verified");
        require(entry.max_loss <= MILLION, "a loss is a share");
        Level storage level = levels[keccak256(abi.encodePacked(a, b))];
        bool same = level.proposer != 0 && level.proposer != sender
            && level.maxLatencyMs == entry.max_latency_ms && level.maxLoss == entry.max_loss;
        require(!(same && level.agreed), "that is agreed already");
        levels[keccak256(abi.encodePacked(a, b))] =
            Level(entry.max_latency_ms, entry.max_loss, sender, same);
        emit AssociatedEntry(msg.sender, entry);
    }

    function breached(Breached calldata entry) external {
        (bytes20 a, bytes20 b,) = pair(entry.a, entry.b);
        Level storage level = levels[keccak256(abi.encodePacked(a, b))];
        require(level.agreed, "no service level is agreed");
        require(
            entry.latency_ms > level.maxLatencyMs || entry.loss > level.maxLoss,
            "the service level is kept"
        );
        emit BreachedEntry(msg.sender, entry);
    }

    // -- audit trails ----------------------------------------------------------------------------

    /// Keep the head of an agent's audit trail. It covers more each time.
    function auditAnchored(AuditAnchored calldata entry) external {
        bytes32 key = keccak256(abi.encodePacked(own(entry.agent), entry.recorder));
        require(entry.events > anchored[key], "as many events are anchored already");
        anchored[key] = entry.events;
        emit AuditAnchoredEntry(msg.sender, entry);
    }

    function pair(string calldata first, string calldata second)
        private
        view
        returns (bytes20 a, bytes20 b, bytes20 sender)
    {
        (a, b) = (idOf(first), idOf(second));
        sender = agentOf[msg.sender];
        require(a < b || b < a, "an association needs two agents");
        require(active(msg.sender) && (sender == a || sender == b), "only one of the two may do this");
        if (b < a) (a, b) = (b, a);
    }
}
