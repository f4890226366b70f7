"""A Vivado project of the IP and a processing system, for devices that have one: Zynq UltraScale+ and Zynq-7000.

Vivado has not seen it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from string import Template

from wordline.fpga.axi_top import PORT_BITS
from wordline.fpga.devices import Device
from wordline.rtl.config import Config

_TCL = Template('''# A project with the IP beside the processing system, after package_ip.tcl:
# vivado -mode batch -source block_design.tcl. The clock is asked for as $mhz MHz.
create_project wordline build -part $part -force
set_property ip_repo_paths . [current_project]
update_ip_catalog
create_bd_design system
set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:$processor ps]
$settings
set ip [create_bd_cell -type ip -vlnv wordline:ip:$name accelerator]
set clk [get_bd_pins ps/$clk]
set reset [create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset]
connect_bd_net $$clk [get_bd_pins reset/slowest_sync_clk]
connect_bd_net [get_bd_pins ps/$resetn] [get_bd_pins reset/ext_reset_in]
apply_bd_automation -rule xilinx.com:bd_rule:axi4 -config {Clk_master Auto Clk_slave Auto Master /ps/$master \\
  Slave /accelerator/s_axi_control intc_ip Auto} [get_bd_intf_pins accelerator/s_axi_control]
${links}connect_bd_net [get_bd_pins accelerator/interrupt] [get_bd_pins ps/$irq]
assign_bd_address
validate_bd_design
save_bd_design
make_wrapper -files [get_files system.bd] -top -import
''')


@dataclass(frozen=True)
class Processor:
    """Vivado's names in a processing system: pins of clock, reset and interrupt, the master for registers, its four
    slave ports, and the commands that set it up for a clock in MHz and so many slave ports of so many bits."""

    clk: str
    resetn: str
    irq: str
    master: str
    slave: str
    settings: Callable[[str, int, int], str]


def _ultrascale(mhz: str, ports: int, bits: int) -> str:
    slaves = "".join(f"  CONFIG.PSU__USE__S_AXI_GP{2 + i} 1 CONFIG.PSU__SAXIGP{2 + i}__DATA_WIDTH {bits} \\\n"
                     for i in range(ports))
    return ("set_property -dict [list CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__IRQ0 1 \\\n"
            f"{slaves}  CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ {mhz}] $ps")


def _zynq7(mhz: str, ports: int, bits: int) -> str:
    # Its slave ports are AXI3 of 64 bits: the interconnect that the automation places converts width and bursts.
    slaves = " ".join(f"CONFIG.PCW_USE_S_AXI_HP{i} 1" for i in range(ports))
    return ("apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 -config {make_external \"FIXED_IO, DDR\" "
            "Master Disable Slave Disable} $ps\n"
            f"set_property -dict [list CONFIG.PCW_USE_M_AXI_GP0 1 {slaves} CONFIG.PCW_USE_FABRIC_INTERRUPT 1 \\\n"
            f"  CONFIG.PCW_IRQ_F2P_INTR 1 CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ {mhz}] $ps")


PROCESSORS = {
    "zynq_ultra_ps_e": Processor("pl_clk0", "pl_resetn0", "pl_ps_irq0", "M_AXI_HPM0_FPD", "S_AXI_HP{}_FPD",
                                 _ultrascale),
    "processing_system7": Processor("FCLK_CLK0", "FCLK_RESET0_N", "IRQ_F2P", "M_AXI_GP0", "S_AXI_HP{}", _zynq7),
}


def block_design(config: Config, device: Device, name: str, masters: list[str]) -> str:
    """Tcl for the IP `name` with so many AXI4 masters, beside `device`'s processing system."""
    ps, mhz = PROCESSORS[device.processor], f"{config.clock_mhz:g}"
    slaves = [ps.slave.format(i % 4) for i in range(len(masters))]
    links = "".join(
        "apply_bd_automation -rule xilinx.com:bd_rule:axi4 -config {Clk_master Auto Clk_slave Auto "
        f"Master /accelerator/{master} \\\n  Slave /ps/{slave} intc_ip Auto}} [get_bd_intf_pins ps/{slave}]\n"
        for master, slave in zip(masters, slaves))
    return _TCL.substitute(
        name=name, part=device.part, mhz=mhz, processor=device.processor, clk=ps.clk, resetn=ps.resetn,
        irq=ps.irq, master=ps.master, links=links,
        settings=ps.settings(mhz, min(4, len(masters)), min(PORT_BITS, config.bus.data_bits)))
