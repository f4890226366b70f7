"""Boards, tops, bus bridges, bitstreams and exported IP."""
