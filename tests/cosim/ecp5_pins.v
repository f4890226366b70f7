// What a board's top needs of the ECP5 besides logic, for simulation. The clock comes out of the PLL as it went in, so a
// bench drives the pin at the core's rate; LOCK rises after some cycles, so that the reset is seen.
module IB(input I, output O); assign O = I; endmodule
module OB(input I, output O); assign O = I; endmodule
module OBZ(input I, input T, output O); assign O = I; endmodule
module EHXPLLL(input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG, PLLWAKESYNC,
               ENCLKOP, output CLKOP, output LOCK);
  parameter CLKI_DIV = 1, CLKFB_DIV = 1, CLKOP_DIV = 8, CLKOP_CPHASE = 0, CLKOP_FPHASE = 0;
  parameter CLKOP_ENABLE = "ENABLED", FEEDBK_PATH = "CLKOP", PLLRST_ENA = "DISABLED";
  parameter OUTDIVIDER_MUXA = "DIVA", OUTDIVIDER_MUXB = "DIVB", OUTDIVIDER_MUXC = "DIVC", OUTDIVIDER_MUXD = "DIVD";
  reg [3:0] count = 0;
  always @(posedge CLKI) if (!LOCK) count <= count + 1;
  assign CLKOP = CLKI;
  assign LOCK = &count;
endmodule
