// A board's pins before synthesis, for simulation.
module IB(input I, output O); assign O = I; endmodule
module OB(input I, output O); assign O = I; endmodule
module OBZ(input I, input T, output O); assign O = I; endmodule
