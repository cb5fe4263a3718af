"""Generations that go on by themselves, and are looked at again and again."""
