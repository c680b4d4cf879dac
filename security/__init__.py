"""Who is who on the backbone: identities, certificates of an own authority, what each may do in Kafka, secrets."""
