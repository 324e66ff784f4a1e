"""The ledger: a record of who vouched for whom that no single party can change; a port."""
