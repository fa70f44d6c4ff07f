"""What a program costs on chips that are not there."""
