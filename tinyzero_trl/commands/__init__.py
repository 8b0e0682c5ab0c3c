"""The `tinyzero-trl` command."""
