"""Commands and how they look; knows the running node through the API's client alone."""
