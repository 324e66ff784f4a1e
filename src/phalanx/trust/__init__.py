"""Trust: agents are hardened, measured, attested by each other, and scored.

The words are those of RFC 9334: an attester gives evidence, a verifier appraises it against
reference values, and relying parties act on the attestation result.
"""
