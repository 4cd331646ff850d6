"""Requests that strangers make to a domain: judged, sent on, their TLS ended."""
