// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

interface IAttestation {
    function active(address account) external view returns (bool);
    function operates(address account) external view returns (bool);
    function verified(bytes20 id) external view returns (bool);
    function agentOf(address account) external view returns (bytes20);
}

/// Hands out the secret of the agents' overlay: to each agent a ciphertext that it alone can open.
///
/// Everything here can be read by every node, so it must stand alone: no view hides anything.
contract Keys {
    struct KeyHandedOut {
        string agent;
        uint64 epoch;
        bytes ciphertext;
        string by;
    }

    struct Rotated {
        uint64 epoch;
        string reason;
    }

    event KeyHandedOutEntry(address indexed author, KeyHandedOut entry);
    event RotatedEntry(address indexed author, Rotated entry);

    IAttestation private immutable attestation;
    /// The secrets of earlier epochs are void. It grows with each agent that leaves.
    uint64 public epoch = 1;
    /// Who hands out the secret of an epoch: the first that does, unless an operator takes over.
    mapping(uint64 => address) public keeper;
    /// Digest of the ciphertext that an agent was given last in an epoch.
    mapping(uint64 => mapping(bytes20 => bytes32)) public given;

    constructor(IAttestation contract_) {
        attestation = contract_;
    }

    /// Open the next epoch, as an agent has left.
    function advance() external returns (uint64) {
        require(msg.sender == address(attestation), "only the attestation contract may do this");
        return ++epoch;
    }

    function keyHandedOut(KeyHandedOut calldata entry) external {
        bool operates = attestation.operates(msg.sender);
        require(operates || attestation.active(msg.sender), "only a verified agent may do this");
        require(
            attestation.agentOf(msg.sender) == bytes20(keccak256(bytes(entry.by))),
            "the account is another agent's"
        );
        require(entry.epoch == epoch, "it is not the present epoch");
        require(entry.ciphertext.length >= 48, "that is no ciphertext");
        bytes20 id = bytes20(keccak256(bytes(entry.agent)));
        require(attestation.verified(id), "the agent is not verified, or has left");
        if (operates || keeper[epoch] == address(0)) keeper[epoch] = msg.sender;
        require(keeper[epoch] == msg.sender, "another agent hands out the keys of this epoch");
        given[epoch][id] = keccak256(entry.ciphertext);
        emit KeyHandedOutEntry(msg.sender, entry);
    }

    /// Open the next epoch without a departure.
    function rotated(Rotated calldata entry) external {
        require(
            attestation.operates(msg.sender)
                || (keeper[epoch] == msg.sender && attestation.active(msg.sender)),
            "only an operator or who hands out the keys may do this"
        );
        require(entry.epoch == epoch + 1, "it is not the next epoch");
        epoch = entry.epoch;
        emit RotatedEntry(msg.sender, entry);
    }
}
