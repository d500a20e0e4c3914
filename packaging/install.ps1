<#
.SYNOPSIS
Installs Stella's agent on this Windows host as the service stella-agent, upgrades it,
or removes it.

.DESCRIPTION
Get this script from your server (/install.ps1): it then knows the server, and the
checksums of its agent. Run it as an administrator. It may be run again: what is in
place already is left alone.

  .\stella-install.ps1 -TokenFile token.txt    register, install and start
  .\stella-install.ps1                         upgrade to the agent that the server has
  .\stella-install.ps1 -Uninstall              remove service and program, keep the data
  .\stella-install.ps1 -Uninstall -Purge       remove the data as well

The token comes from -TokenFile, from $env:STELLA_BOOTSTRAP_TOKEN, or from -Token, which
other users of this host may see in the list of processes.
#>
[CmdletBinding()]
param(
    [string]$Token,                           # the registration token, reg_...
    [string]$TokenFile,                       # a file with it
    [Alias('Server')][string]$ServerUrl,      # another address of the server than the script has
    [string]$Name,                            # the agent's name; the host's, or the token's, when left out
    [string]$Binary,                          # stella-agent.exe, copied here by hand: nothing is downloaded
    [switch]$Uninstall,
    [switch]$Purge
)

$Server = ''      # the server's URL
$Sums = @{}       # SHA-256 of it, by architecture

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $false # exit codes are looked at here

$Service = 'stella-agent'
$ProgramFolder = Join-Path ([Environment]::GetFolderPath('ProgramFiles')) 'Stella Agent'
$Program = Join-Path $ProgramFolder 'stella-agent.exe'
$Data = Join-Path ([Environment]::GetFolderPath('CommonApplicationData')) 'stella-agent'
$Config = Join-Path $Data 'agent.yaml'
$LogFile = Join-Path $Data 'logs\stella-agent.log'
$EventSource = 'HKLM:\SYSTEM\CurrentControlSet\Services\EventLog\Application\stella-agent'
# By their ids, for their names differ with the language of Windows.
$System = 'S-1-5-18'
$Administrators = 'S-1-5-32-544'

function Assert-Host {
    if ($env:OS -ne 'Windows_NT') { throw 'this script is for Windows; for Linux, your server has /install.sh' }
    if (-not [Environment]::Is64BitProcess) { throw 'this is a 32-bit PowerShell: run the script in the 64-bit one' }
    $me = New-Object Security.Principal.WindowsPrincipal ([Security.Principal.WindowsIdentity]::GetCurrent())
    if (-not $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
        throw 'it takes an administrator to install a service: open PowerShell by "Run as administrator" and run the script again'
    }
}

# Stop-Agent returns when the process has ended, whose file can be replaced then.
function Stop-Agent {
    Write-Host 'Stopping the service; tasks that run may take a moment to end'
    $process = (Get-CimInstance -ClassName Win32_Service -Filter "Name='$Service'").ProcessId
    Stop-Service -Name $Service
    if ($process) { Wait-Process -Id $process -Timeout 60 -ErrorAction SilentlyContinue }
}

# Get-Architecture is the machine's own, also for a PowerShell that it emulates.
function Get-Architecture {
    $environment = Get-ItemProperty 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Environment'
    switch ($environment.PROCESSOR_ARCHITECTURE) {
        'AMD64' { return 'amd64' }
        'ARM64' { return 'arm64' }
    }
    throw "there is no agent for this machine's architecture, $($environment.PROCESSOR_ARCHITECTURE)"
}

function Get-Sum([string]$File) { return (Get-FileHash -LiteralPath $File -Algorithm SHA256).Hash.ToLowerInvariant() }

function Test-Service { return $null -ne (Get-Service -Name $Service -ErrorAction SilentlyContinue) }

function Test-Registered { return Test-Path -LiteralPath (Join-Path $Data 'identity.json') }

# Invoke-Tool runs one of Windows' own programs; what it says is shown when it fails.
function Invoke-Tool([string]$What, [string]$Tool, [string[]]$Arguments) {
    $said = & (Join-Path ([Environment]::SystemDirectory) $Tool) $Arguments
    if ($LASTEXITCODE -ne 0) { throw "$What`: $Tool ended with exit code $LASTEXITCODE`: $($said -join ' ')" }
}

function Get-RegistrationToken {
    if ($TokenFile) { return ([IO.File]::ReadAllText((Resolve-Path -LiteralPath $TokenFile).ProviderPath)).Trim() }
    if ($Token) { return $Token.Trim() }
    return "$env:STELLA_BOOTSTRAP_TOKEN".Trim()
}

# Get-Program puts the agent beside the one that runs, and verifies it there: in a
# folder that only administrators may write to.
function Get-Program([string]$Url, [string]$Architecture, [string]$Sum) {
    [void](New-Item -ItemType Directory -Force -Path $ProgramFolder)
    $new = "$Program.new"
    if ($Binary) {
        Copy-Item -LiteralPath $Binary -Destination $new -Force
    } else {
        $from = "$Url/download/windows/$Architecture/stella-agent.exe"
        $curl = Join-Path ([Environment]::SystemDirectory) 'curl.exe'
        $byHand = "Or copy $from here from a machine that can get it, and run this script with -Binary FILE."
        if (-not (Test-Path -LiteralPath $curl)) { throw "this Windows has no curl.exe to download with. $byHand" }
        Write-Host "Getting $from"
        # The server's certificate is not looked at: the checksum says what is right.
        & $curl --insecure --fail --silent --show-error --connect-timeout 20 --retry 2 --output $new $from
        switch ($LASTEXITCODE) {
            0 { break }
            35 { throw "no TLS with $Url`: Stella speaks TLS 1.3, which Windows has from Windows 11 and Windows Server 2022 on. $byHand" }
            default { throw "$from cannot be downloaded: curl.exe ended with exit code $LASTEXITCODE, and says why above. $byHand" }
        }
    }
    $is = Get-Sum $new
    if ($is -ne $Sum) {
        Remove-Item -LiteralPath $new -Force
        throw "the agent's SHA-256 is $is, and should be $Sum`: nothing was installed. If the server was upgraded since, get this script from it again"
    }
    return $new
}

function Install-Program([string]$New) {
    # The one before is kept: to go back by hand.
    $previous = Join-Path $ProgramFolder 'stella-agent.previous.exe'
    if (Test-Path -LiteralPath $Program) {
        if (Test-Path -LiteralPath $previous) { Remove-Item -LiteralPath $previous -Force }
        Move-Item -LiteralPath $Program -Destination $previous
    }
    try {
        Move-Item -LiteralPath $New -Destination $Program
    } catch {
        if (Test-Path -LiteralPath $previous) { Move-Item -LiteralPath $previous -Destination $Program }
        throw
    }
    Write-Host "Installed $Program"
}

# Initialize-Data makes the data folder, for the system and administrators alone. It is
# made where only administrators may write, and then moved: nobody gets a moment to put
# something into it.
function Initialize-Data {
    if (Test-Path -LiteralPath $Data) {
        $owner = (Get-Acl -LiteralPath $Data).GetOwner([Security.Principal.SecurityIdentifier]).Value
        if (($owner -ne $System) -and ($owner -ne $Administrators)) {
            throw "$Data is there and belongs to $owner, who may have put anything into it. If it is yours, look what is in it, and give it to the administrators: icacls `"$Data`" /setowner *$Administrators /T. If not, remove it. Then run the script again"
        }
        Protect-Data $Data
        return
    }
    $new = Join-Path $ProgramFolder 'data.new'
    if (Test-Path -LiteralPath $new) { Remove-Item -LiteralPath $new -Recurse -Force }
    [void](New-Item -ItemType Directory -Path $new)
    Protect-Data $new
    Move-Item -LiteralPath $new -Destination $Data
}

function Protect-Data([string]$Folder) {
    Invoke-Tool "let only administrators into $Folder" 'icacls.exe' @($Folder, '/inheritance:r', '/grant:r', "*${System}:(OI)(CI)F", "*${Administrators}:(OI)(CI)F", '/Q')
    Invoke-Tool "give $Folder to the administrators" 'icacls.exe' @($Folder, '/setowner', "*$Administrators", '/Q')
}

# ConvertTo-Yaml quotes a text so that nothing in it means anything.
function ConvertTo-Yaml([string]$Text) { return "'" + $Text.Replace("'", "''") + "'" }

function Initialize-Config([string]$Url) {
    if (Test-Path -LiteralPath $Config) {
        if ($Name -or $ServerUrl) { Write-Warning "$Config is there and is left as it is: change the name or the server there, and restart the service" }
        return
    }
    $lines = @('agent:')
    if ($Name) { $lines += '  name: ' + (ConvertTo-Yaml $Name) }
    $lines += '  orchestrator_url: ' + (ConvertTo-Yaml $Url)
    # Windows PowerShell would begin the file with a mark.
    [IO.File]::WriteAllText($Config, ($lines -join "`n") + "`n", (New-Object Text.UTF8Encoding $false))
}

# Register-Agent gives the token to the agent by its environment, where no list of
# processes shows it, and takes it out of this PowerShell's when it was used.
function Register-Agent([string]$Secret) {
    $before = $env:STELLA_BOOTSTRAP_TOKEN
    try {
        $env:STELLA_BOOTSTRAP_TOKEN = $Secret
        & $Program register --config $Config --data $Data
        if ($LASTEXITCODE -ne 0) { throw 'the agent is not registered, and says why above; the program is installed, the service is not. Run the script again when the cause is gone' }
        $before = $null
    } finally {
        $env:STELLA_BOOTSTRAP_TOKEN = $before # nothing removes it
    }
}

function Register-AgentService {
    if (-not (Test-Path -LiteralPath $EventSource)) { [void](New-Item -Path $EventSource) }
    Set-ItemProperty -LiteralPath $EventSource -Name EventMessageFile -Type ExpandString -Value '%SystemRoot%\System32\EventCreate.exe'
    Set-ItemProperty -LiteralPath $EventSource -Name TypesSupported -Type DWord -Value 7
    if (-not (Test-Service)) {
        $command = "`"$Program`" run --config `"$Config`" --data `"$Data`""
        [void](New-Service -Name $Service -BinaryPathName $command -DisplayName 'Stella agent' -Description 'Deploys to this host what its Stella server says.' -StartupType Automatic)
    }
    Invoke-Tool 'start the service with Windows' 'sc.exe' @('config', $Service, 'start=', 'delayed-auto')
    Invoke-Tool 'start the service again when it fails' 'sc.exe' @('failure', $Service, 'reset=', '86400', 'actions=', 'restart/5000/restart/30000/restart/60000')
    Invoke-Tool 'start the service again when it fails' 'sc.exe' @('failureflag', $Service, '1')
}

function Start-Agent {
    try {
        Start-Service -Name $Service
    } catch {
        throw "the service does not start ($($_.Exception.Message)). $LogFile says why, or else the event log: Get-WinEvent -LogName Application -MaxEvents 20"
    }
    & $Program status --wait 60s --config $Config --data $Data
    if ($LASTEXITCODE -ne 0) { throw "the agent is installed and runs, and is not connected to its server; the cause is above, and more is in $LogFile. It goes on trying" }
}

function Install-Agent {
    $url = $Server
    if ($ServerUrl) { $url = $ServerUrl }
    $url = $url.TrimEnd('/')
    if ($url -notmatch '^https://[^\s/]+') { throw "the server's URL is `"$url`": give it as in -Server https://stella.example.com:8443, or get this script from your server" }
    $architecture = Get-Architecture
    $sum = "$($Sums[$architecture])".ToLowerInvariant()
    if ($sum -notmatch '^[0-9a-f]{64}$') { throw "this script has no checksum of an agent for windows/$architecture, and installs none that it cannot verify: get it from your server, $url/install.ps1" }
    $secret = Get-RegistrationToken
    $registered = Test-Registered
    if (-not $registered -and -not $secret) {
        throw 'this host is not registered, and there is no token: make one with "stella agent bootstrap --platform windows", and give it by -TokenFile or $env:STELLA_BOOTSTRAP_TOKEN'
    }
    $current = (Test-Path -LiteralPath $Program) -and ((Get-Sum $Program) -eq $sum)
    $new = $null
    if (-not $current) { $new = Get-Program $url $architecture $sum }
    if ((Test-Service) -and ($new -or -not $registered)) { Stop-Agent }
    if ($new) { Install-Program $new }
    Initialize-Data
    Initialize-Config $url
    if (-not $registered) { Register-Agent $secret }
    Register-AgentService
    Start-Agent
    if ($current) { Write-Host "The agent was up to date, and runs." } else { Write-Host "The agent runs." }
}

function Uninstall-Agent {
    if (Test-Service) {
        Stop-Agent
        Invoke-Tool 'remove the service' 'sc.exe' @('delete', $Service)
    }
    foreach ($path in @($EventSource, $ProgramFolder)) {
        if (Test-Path -LiteralPath $path) { Remove-Item -LiteralPath $path -Recurse -Force }
    }
    if (-not $Purge) {
        Write-Host "Removed service and program. The agent's identity and logs are in $Data; -Uninstall -Purge removes them."
        return
    }
    if (Test-Path -LiteralPath $Data) { Remove-Item -LiteralPath $Data -Recurse -Force }
    Write-Host 'Removed service, program and data. The server still knows the agent: end it there by "stella agent revoke".'
}

try {
    Assert-Host
    if ($Purge -and -not $Uninstall) { throw '-Purge removes the data, and goes with -Uninstall alone' }
    if ($Uninstall) { Uninstall-Agent } else { Install-Agent }
} catch {
    [Console]::Error.WriteLine("stella-install: $($_.Exception.Message)")
    exit 1
}
