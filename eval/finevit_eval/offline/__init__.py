"""Evaluations on published data that come inside packages: they need neither --data nor the Hub."""
