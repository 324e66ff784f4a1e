"""Who is who: a domain's authority, the certificates of its identities, and how they are judged."""
