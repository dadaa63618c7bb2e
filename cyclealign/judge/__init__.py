"""The model behind an API: what it is shown, how it is asked, what that costs, how its reply is read."""
