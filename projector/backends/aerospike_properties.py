"""Which properties of the Aerospike client the protocol owns; importable without the client."""

OWNED_PROPERTIES = frozenset(
    {
        "policies",  # timeouts, retries, read mode, time to live; auth_mode and login_timeout_ms stand alone
        "config_provider",  # would change policies at run time
        "serialization",
        "send_bool_as",
        "strict_types",
        "validate_keys",
    }
)
CONFIG_VARIABLE = "AEROSPIKE_CLIENT_CONFIG_URL"  # the client would take policies from there
