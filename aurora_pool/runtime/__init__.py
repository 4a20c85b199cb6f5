"""The async half: carries out what the policy decides, over HTTP."""
