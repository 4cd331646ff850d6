"""The tenants' way to the internet: an HTTP proxy per lease that goes to public addresses only."""
