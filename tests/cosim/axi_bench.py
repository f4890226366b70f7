"""An AXI4 master in Amaranth's simulator."""

from collections import deque


async def write(ctx, axi, rng, address: int, beats: list[tuple[int, int]], stall: float) -> int:
    """A burst of (data, strobes), data with pauses; the response."""
    ctx.set(axi.awaddr, address)
    ctx.set(axi.awlen, len(beats) - 1)
    addressed, left, offered = False, deque(beats), False
    while not addressed or left:
        ctx.set(axi.awvalid, not addressed)
        offered = bool(left) and (offered or rng.random() >= stall)
        ctx.set(axi.wvalid, offered)
        if left:
            ctx.set(axi.wdata, left[0][0])
            ctx.set(axi.wstrb, left[0][1])
            ctx.set(axi.wlast, len(left) == 1)
        addressed_now, taken = ctx.get(axi.awready) and not addressed, offered and ctx.get(axi.wready)
        await ctx.tick()
        addressed |= bool(addressed_now)
        if taken:
            left.popleft()
            offered = False
    ctx.set(axi.awvalid, 0)
    ctx.set(axi.wvalid, 0)
    ctx.set(axi.bready, 1)
    while not ctx.get(axi.bvalid):
        await ctx.tick()
    response = ctx.get(axi.bresp)
    await ctx.tick()
    return response


async def read(ctx, axi, rng, bursts: list[tuple[int, int]], stall: float,
               bad: list[int] | None = None) -> list[int]:
    """Bursts of (address, beats), asked for as fast as they are taken; the beats of all of them.

    Numbers of beats with an error response are added to `bad`; without it there must be none.
    """
    waiting, got = deque(bursts), []
    lasts = [k == n - 1 for _, n in bursts for k in range(n)]
    while len(got) < len(lasts):
        if waiting:
            ctx.set(axi.araddr, waiting[0][0])
            ctx.set(axi.arlen, waiting[0][1] - 1)
        ctx.set(axi.arvalid, bool(waiting))
        ready = rng.random() >= stall
        ctx.set(axi.rready, ready)
        if ready and ctx.get(axi.rvalid):
            assert ctx.get(axi.rlast) == lasts[len(got)]
            if ctx.get(axi.rresp):
                assert bad is not None
                bad.append(len(got))
            got.append(ctx.get(axi.rdata))
        taken = waiting and ctx.get(axi.arready)
        await ctx.tick()
        if taken:
            waiting.popleft()
    ctx.set(axi.arvalid, 0)
    ctx.set(axi.rready, 0)
    return got
