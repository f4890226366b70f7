"""component.xml: an IP's interfaces and ports in IP-XACT (IEEE 1685-2009, as Vivado reads it)."""

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from wordline.fpga.ip import Interface

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"


def _tag(name: str) -> str:
    return f"{{{SPIRIT}}}{name}"


def _add(parent: ET.Element, tag: str, text: str | None = None, /, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, _tag(tag), {_tag(k): v for k, v in attributes.items()})
    element.text = text
    return element


def _vlnv(parent: ET.Element, name: str, vendor: str, library: str, what: str, version: str) -> None:
    _add(parent, name, vendor=vendor, library=library, name=what, version=version)


def _bus(parent: ET.Element, name: str, kind: tuple[str, str], role: str, maps: list[tuple[str, str]],
         parameters: dict[str, str]) -> ET.Element:
    bus = _add(parent, "busInterface")
    _add(bus, "name", name)
    library, what = kind
    _vlnv(bus, "busType", "xilinx.com", library, what, "1.0")
    _vlnv(bus, "abstractionType", "xilinx.com", library, f"{what}_rtl", "1.0")
    end = _add(bus, role)
    if what == "aximm":
        reference = "addressSpaceRef" if role == "master" else "memoryMapRef"
        _add(end, reference, **{reference: name})
    port_maps = _add(bus, "portMaps")
    for logical, physical in maps:
        port_map = _add(port_maps, "portMap")
        _add(_add(port_map, "logicalPort"), "name", logical)
        _add(_add(port_map, "physicalPort"), "name", physical)
    if parameters:
        table = _add(bus, "parameters")
        for key, value in parameters.items():
            parameter = _add(table, "parameter")
            _add(parameter, "name", key)
            _add(parameter, "value", value)
    return bus


def component_xml(name: str, version: str, title: str, interfaces: "list[Interface]") -> str:
    """The component of a module with the given AXI interfaces, ``ap_clk``, ``ap_rst_n`` and ``interrupt``."""
    ET.register_namespace("spirit", SPIRIT)
    ET.register_namespace("xilinx", XILINX)
    root = ET.Element(_tag("component"))
    for key, value in (("vendor", "wordline"), ("library", "ip"), ("name", name), ("version", version)):
        _add(root, key, value)
    busses = _add(root, "busInterfaces")
    for part in interfaces:
        maps = [(port.upper(), f"{part.name}_{port}") for port, _, _ in part.ports]
        protocol = "AXI4" if part.master else "AXI4LITE"
        _bus(busses, part.name, ("interface", "aximm"), "master" if part.master else "slave", maps,
             {"PROTOCOL": protocol})
    _bus(busses, "ap_clk", ("signal", "clock"), "slave", [("CLK", "ap_clk")],
         {"ASSOCIATED_BUSIF": ":".join(part.name for part in interfaces), "ASSOCIATED_RESET": "ap_rst_n"})
    _bus(busses, "ap_rst_n", ("signal", "reset"), "slave", [("RST", "ap_rst_n")], {"POLARITY": "ACTIVE_LOW"})
    _bus(busses, "interrupt", ("signal", "interrupt"), "master", [("INTERRUPT", "interrupt")],
         {"SENSITIVITY": "LEVEL_HIGH"})
    spaces = _add(root, "addressSpaces")
    for part in interfaces:
        if part.master:
            space = _add(spaces, "addressSpace")
            _add(space, "name", part.name)
            _add(space, "range", str(1 << _width(part, "araddr")))
            _add(space, "width", str(_width(part, "rdata")))
    maps_ = _add(root, "memoryMaps")
    for part in interfaces:
        if not part.master:
            memory_map = _add(maps_, "memoryMap")
            _add(memory_map, "name", part.name)
            block = _add(memory_map, "addressBlock")
            for key, value in (("name", "registers"), ("baseAddress", "0"),
                               ("range", str(1 << _width(part, "araddr"))), ("width", "32"), ("usage", "register")):
                _add(block, key, value)
    model = _add(root, "model")
    view = _add(_add(model, "views"), "view")
    _add(view, "name", "xilinx_anylanguagesynthesis")
    _add(view, "envIdentifier", ":vivado.xilinx.com:synthesis")
    _add(view, "language", "Verilog")
    _add(view, "modelName", name)
    _add(_add(view, "fileSetRef"), "localName", "sources")
    ports = _add(model, "ports")
    plain: list[tuple[str, bool, int]] = [("ap_clk", False, 1), ("ap_rst_n", False, 1), ("interrupt", True, 1)]
    for part in interfaces:
        plain += [(f"{part.name}_{port}", output, width) for port, output, width in part.ports]
    for port, output, width in plain:
        element = _add(ports, "port")
        _add(element, "name", port)
        wire = _add(element, "wire")
        _add(wire, "direction", "out" if output else "in")
        if width > 1:
            vector: Any = _add(wire, "vector")
            _add(vector, "left", str(width - 1))
            _add(vector, "right", "0")
    sets = _add(root, "fileSets")
    file_set = _add(sets, "fileSet")
    _add(file_set, "name", "sources")
    file = _add(file_set, "file")
    _add(file, "name", f"hdl/{name}.v")
    _add(file, "fileType", "verilogSource")
    _add(root, "description", title)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _width(part: "Interface", port: str) -> int:
    return next(width for name, _, width in part.ports if name == port)
