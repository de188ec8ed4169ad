"""Who may come in, and whose turn it is: bounds, predicted waits, a fair queue before the engine."""

from vivace.serve.admission.admission import Admission, Ticket
from vivace.serve.admission.limits import AdmissionLimits, EngineCapacity, EngineState

__all__ = ["Admission", "AdmissionLimits", "EngineCapacity", "EngineState", "Ticket"]
