"""What somebody who means harm does to real processes over real sockets. All of it is bounded in count and time."""
